"""Workflows around one node, built from the installation's node definitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Graph = dict[str, dict[str, Any]]
# Nodes that produce a value of a type without inputs: class, index of the output, inputs.
SOURCES: Mapping[str, tuple[str, int, dict[str, Any]]] = {
    "IMAGE": ("EmptyImage", 0, {"width": 16, "height": 16, "batch_size": 1, "color": 0x202020}),
    "MASK": ("SolidMask", 0, {"value": 1.0, "width": 16, "height": 16}),
    "LATENT": ("EmptyLatentImage", 0, {"width": 16, "height": 16, "batch_size": 1}),
    "AUDIO": ("EmptyAudio", 0, {"duration": 0.1, "sample_rate": 8000, "channels": 1}),
    "STRING": ("PrimitiveString", 0, {"value": "text"}),
    "INT": ("PrimitiveInt", 0, {"value": 1}),
    "FLOAT": ("PrimitiveFloat", 0, {"value": 1.0}),
    "BOOLEAN": ("PrimitiveBoolean", 0, {"value": True}),
}
# Nodes that output a value of a type: class, name of its input, other inputs.
SINKS: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "IMAGE": ("SaveImage", "images", {"filename_prefix": "shown"}),
    "AUDIO": ("SaveAudio", "audio", {"filename_prefix": "shown"}),
    "VIDEO": ("SaveVideo", "video", {"filename_prefix": "shown", "format": "auto", "codec": "auto"}),
    "LATENT": ("SaveLatent", "samples", {"filename_prefix": "shown"}),
}
DEEPEST = 3  # depth of the nodes that produce an input of the tested one


@dataclass(frozen=True)
class Input:
    name: str
    kind: str  # COMBO for a list of choices
    required: bool
    choices: tuple[Any, ...]
    options: Mapping[str, Any]


def inputs_of(about: Mapping[str, Any]) -> Iterator[Input]:
    sections = about.get("input")
    for section in ("required", "optional"):
        found = sections.get(section) if isinstance(sections, dict) else None
        for name, declared in (found or {}).items():
            if not isinstance(declared, list) or not declared:
                continue
            options = declared[1] if len(declared) > 1 and isinstance(declared[1], dict) else {}
            choices = declared[0] if isinstance(declared[0], list) else options.get("options") or []
            kind = "COMBO" if isinstance(declared[0], list) else str(declared[0])
            yield Input(name, kind, section == "required", tuple(choices), options)


class Builder:
    """`info` is ComfyUI's `/object_info`."""

    def __init__(self, info: Mapping[str, Any]) -> None:
        self.info = info

    def around(self, class_type: str, values: Mapping[str, Any]) -> Graph:
        """The node with these inputs, its other required ones filled in, and its outputs saved."""
        graph: Graph = {}
        self._node("1", class_type, values, graph, depth=0)
        for index, kind in enumerate(self.info.get(class_type, {}).get("output") or []):
            self._show("1", index, kind if isinstance(kind, str) else "COMBO", graph)
        return graph

    def _node(
        self, node_id: str, class_type: str, values: Mapping[str, Any], graph: Graph, *, depth: int
    ) -> None:
        inputs: dict[str, Any] = {}
        graph[node_id] = {"class_type": class_type, "inputs": inputs}
        for each in inputs_of(self.info.get(class_type, {})):
            if each.name not in values and each.required:
                inputs[each.name] = self._value(each, graph, depth=depth)
        inputs.update(values)

    def _value(self, wanted: Input, graph: Graph, *, depth: int) -> Any:
        if "default" in wanted.options:
            return wanted.options["default"]
        if wanted.kind == "COMBO":
            return wanted.choices[0] if wanted.choices else ""
        if wanted.kind in ("STRING", "INT", "FLOAT", "BOOLEAN"):
            return {"STRING": "", "BOOLEAN": False}.get(wanted.kind, wanted.options.get("min", 1))
        return self._made(wanted.kind, graph, depth=depth)

    def _made(self, kind: str, graph: Graph, *, depth: int) -> Any:
        """A link to a node that produces such a value; a text if none is known."""
        kind = kind.partition(",")[0]
        class_type, index, values = SOURCES.get("IMAGE" if kind == "*" else kind) or self._maker(kind)
        if not class_type or depth >= DEEPEST:
            return "text"
        node_id = str(len(graph) + 1)
        self._node(node_id, class_type, values, graph, depth=depth + 1)
        return [node_id, index]

    def _maker(self, kind: str) -> tuple[str, int, dict[str, Any]]:
        """The class with the fewest inputs that produces it."""
        makers = [
            (len(list(inputs_of(about))), name, (about.get("output") or []).index(kind))
            for name, about in self.info.items()
            if kind in (about.get("output") or []) and not about.get("api_node")
        ]
        return (min(makers)[1], min(makers)[2], {}) if makers else ("", 0, {})

    def _show(self, node_id: str, index: int, kind: str, graph: Graph) -> None:
        class_type, name, more = SINKS.get(kind) or ("PreviewAny", "source", {})
        link: Any = [node_id, index]
        if kind == "MASK":
            converter = str(len(graph) + 1)
            graph[converter] = {"class_type": "MaskToImage", "inputs": {"mask": link}}
            class_type, name, more, link = "SaveImage", "images", {"filename_prefix": "shown"}, [converter, 0]
        graph[str(len(graph) + 1)] = {"class_type": class_type, "inputs": {**more, name: link}}
