"""Parses a file saved by ComfyUI's editor into nodes and links.

Both schemas are supported: 0.4, where links are lists and subgraphs are in `definitions`, and 1, where all
links are objects. Malformed parts are reported by their dotted path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from comfyserve.api.errors import Detail

LOST_INPUT = -10  # node id of a subgraph's own inputs in its links
# Renamed classes; the editor loads old files under the new names.
RENAMED = {
    "T2IAdapterLoader": "ControlNetLoader",
    "ConditioningAverage ": "ConditioningAverage",
    "SDV_img2vid_Conditioning": "SVD_img2vid_Conditioning",
    "Load3DAnimation": "Load3D",
    "Preview3DAnimation": "Preview3D",
}
MUTED, BYPASSED = 2, 4


@dataclass
class Slot:
    name: str
    type: str
    link: int | None = None  # only for inputs
    links: tuple[int, ...] = ()  # for outputs, and for a subgraph's own slots
    widget: str | None = None  # the widget whose value a link replaces


@dataclass(frozen=True)
class Link:
    id: int
    source: str
    source_slot: int
    target: str
    target_slot: int


@dataclass
class Node:
    id: str
    type: str
    title: str
    mode: int
    inputs: list[Slot]
    outputs: list[Slot]
    values: list[Any] | dict[str, Any]
    properties: dict[str, Any]
    path: str  # position in the submitted document


@dataclass
class Graph:
    """The main graph, or a subgraph's definition with its own inputs and outputs."""

    id: str
    name: str
    nodes: dict[str, Node] = field(default_factory=dict)
    links: dict[int, Link] = field(default_factory=dict)
    inputs: list[Slot] = field(default_factory=list)
    outputs: list[Slot] = field(default_factory=list)


@dataclass
class Document:
    root: Graph
    subgraphs: dict[str, Graph]


class Malformed(Exception):
    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.detail = Detail("INVALID_TYPE", message, path)


def read(file: Mapping[str, Any], path: str) -> Document:
    """Parse the file. Raises Malformed at the first part that deviates from the editor's format."""
    root = _graph(file, path, id_="")
    definitions = file.get("definitions")
    listed = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    subgraphs: dict[str, Graph] = {}
    where = f"{path}.definitions.subgraphs"
    for i, entry in enumerate(_list(listed, where)):
        found = _graph(_object(entry, f"{where}.{i}"), f"{where}.{i}", id_=str(entry.get("id", "")))
        subgraphs[found.id] = found
    return Document(root, subgraphs)


def _graph(data: Mapping[str, Any], path: str, *, id_: str) -> Graph:
    graph = Graph(id_, str(data.get("name") or ""))
    for i, entry in enumerate(_list(data.get("nodes"), f"{path}.nodes")):
        node = _node(_object(entry, f"{path}.nodes.{i}"), f"{path}.nodes.{i}")
        if node.id in graph.nodes:
            raise Malformed(f"Two nodes have the id {node.id}", f"{node.path}.id")
        graph.nodes[node.id] = node
    links = data.get("links")
    entries = links.values() if isinstance(links, dict) else _list(links, f"{path}.links")
    for i, entry in enumerate(entries):
        if entry is not None:
            link = _link(entry, f"{path}.links.{i}")
            graph.links[link.id] = link
    graph.inputs = list(_slots(data.get("inputs"), f"{path}.inputs"))
    graph.outputs = list(_slots(data.get("outputs"), f"{path}.outputs"))
    return graph


def _node(data: Mapping[str, Any], path: str) -> Node:
    id_, type_ = data.get("id"), data.get("type")
    if isinstance(id_, bool) or not isinstance(id_, int | str):
        raise Malformed("A node's id must be a number or a string", f"{path}.id")
    if not isinstance(type_, str) or not type_:
        raise Malformed("A node's type must be the name of its class", f"{path}.type")
    values = data.get("widgets_values")
    if values is not None and not isinstance(values, list | dict):
        raise Malformed("`widgets_values` must be a list or an object", f"{path}.widgets_values")
    properties = data.get("properties")
    title = data.get("title")
    return Node(
        id=str(id_),
        type=RENAMED.get(type_, type_),
        title=title if isinstance(title, str) else "",
        mode=_whole(data.get("mode") or 0, f"{path}.mode"),
        inputs=list(_slots(data.get("inputs"), f"{path}.inputs")),
        outputs=list(_slots(data.get("outputs"), f"{path}.outputs")),
        values=values if values is not None else [],
        properties=properties if isinstance(properties, dict) else {},
        path=path,
    )


def _slots(given: Any, path: str) -> Iterator[Slot]:
    for i, entry in enumerate(_list(given, path)):
        data = _object(entry, f"{path}.{i}")
        link, type_, widget = data.get("link"), data.get("type"), data.get("widget")
        links = data.get("links") if "links" in data else data.get("linkIds")
        yield Slot(
            name=str(data.get("name", "")),
            type=",".join(map(str, type_))
            if isinstance(type_, list)
            else str(type_ if type_ is not None else "*"),
            link=None if link is None else _whole(link, f"{path}.{i}.link"),
            links=tuple(
                _whole(id_, f"{path}.{i}.links")
                for id_ in _list(links, f"{path}.{i}.links")
                if id_ is not None
            ),
            widget=str(widget.get("name", "")) if isinstance(widget, dict) else None,
        )


def _link(data: Any, path: str) -> Link:
    if isinstance(data, list):
        if len(data) < 5:
            raise Malformed("A link is [id, from node, output, to node, input, type]", path)
        parts = data[:5]
    else:
        parts = [
            _object(data, path).get(key)
            for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot")
        ]
    return Link(
        id=_whole(parts[0], path),
        source=str(parts[1]),
        source_slot=_whole(parts[2], path),
        target=str(parts[3]),
        target_slot=_whole(parts[4], path),
    )


def _whole(value: Any, path: str) -> int:
    if isinstance(value, str) and value.lstrip("-").isdecimal() and len(value) < 10:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Malformed(f"Field '{path}' must be a whole number", path)
    return value


def _list(value: Any, path: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise Malformed(f"Field '{path}' must be a list", path)
    return value


def _object(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(f"Field '{path}' must be an object", path)
    return value
