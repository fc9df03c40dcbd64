"""Links between nodes: normalises them on submission and explains invalid ones.

ComfyUI treats a list of two, `[node id, output]`, as a link. Clients also send ids and outputs of the wrong
type, and lists meant as values, which ComfyUI expects as `{"__value__": [...]}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from comfyserve.api.errors import Detail

from .node_info import Classes

Link = tuple[str, int]
Prompt = dict[str, dict[str, Any]]
# ComfyUI traverses workflows recursively; Python's limit is 1,000 calls, some of which are already used.
MAX_DEPTH = 900
AS_VALUE = 'a list that is meant as a value is written {"__value__": [...]}'


@dataclass
class Graph:
    """A workflow in ComfyUI's API format, with the path of each part in the submitted document."""

    prompt: Prompt = field(default_factory=dict)
    paths: dict[tuple[str, str], str] = field(
        default_factory=dict
    )  # (node, input) -> dotted path of its value
    node_paths: dict[str, str] = field(default_factory=dict)


def link(value: Any) -> Link | None:
    """`value` as (node id, output slot) if ComfyUI would treat it as a link, else None."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
        slot = value[1]
        if isinstance(slot, int) and not isinstance(slot, bool):
            return value[0], slot
    return None


def links_of(prompt: Prompt, node_id: str) -> Iterator[tuple[str, Link]]:
    for name, value in prompt[node_id]["inputs"].items():
        found = link(value)
        if found:
            yield name, found


def as_link(value: Any, prompt: Prompt) -> list[Any] | None:
    """Convert `[1, 0]`, `["1", "0"]` and `["1", 0.0]` to ComfyUI's form, if the node exists; else None."""
    if not isinstance(value, list) or len(value) != 2 or link(value):
        return None
    source, slot = value
    if isinstance(source, bool) or not isinstance(source, str | int) or str(source) not in prompt:
        return None
    output = _whole(slot)
    return None if output is None else [str(source), output]


def _whole(slot: Any) -> int | None:
    if isinstance(slot, str):
        return int(slot) if slot.isascii() and slot.isdigit() and len(slot) < 6 else None
    if isinstance(slot, bool) or not isinstance(slot, int | float):
        return None
    return int(slot) if slot == int(slot) else None


def make_uniform(prompt: Prompt) -> None:
    """Normalise the links to ComfyUI's form, in place."""
    for node in prompt.values():
        for name, value in node["inputs"].items():
            uniform = as_link(value, prompt)
            if uniform is not None:
                node["inputs"][name] = uniform


def mistakes(graph: Graph, known: Sequence[Classes]) -> Iterator[Detail]:
    """Errors that every known ComfyUI with the classes would raise: links to outputs that a node does not
    have, and lists that are not valid links in declared inputs.
    """
    for node_id, node in graph.prompt.items():
        for name in node["inputs"]:
            tables = [classes for classes in known if _declares(classes, node["class_type"], name)]
            verdicts = [explain(graph.prompt, node_id, name, classes) for classes in tables]
            if verdicts and all(verdicts):
                message = f"Node {node_id} ({node['class_type']}): {verdicts[0]}"
                yield Detail("INVALID_LINK", message, graph.paths[node_id, name])


def _declares(classes: Classes, class_type: str, name: str) -> bool:
    return class_type in classes and name in classes[class_type].inputs


def explain(prompt: Prompt, node_id: str, name: str, classes: Classes) -> str | None:
    """Describe what is wrong with the link in this input; None if it is valid."""
    value = prompt[node_id]["inputs"][name]
    if not isinstance(value, list):
        return None
    found = link(value)
    if found is None:
        if len(value) == 2:
            return f"input '{name}' is {written(value, 80)}, which is no link [node id, output]; {AS_VALUE}"
        return f"input '{name}' is a list of {len(value)}; a link is [node id, output], and {AS_VALUE}"
    source, slot = found
    if source not in prompt:
        return f"input '{name}' is linked to node '{source}', which does not exist"
    about = classes.get(prompt[source]["class_type"])
    if about is None or slot < len(about.outputs):
        return None
    has = f"{len(about.outputs)} ({', '.join(about.outputs)})" if about.outputs else "none"
    title = f"{source} ({prompt[source]['class_type']})"
    return f"input '{name}' is linked to output {slot} of node {title}; they count from 0, and it has {has}"


def written(value: object, most: int) -> str:
    """The value as in JSON, cut off after `most` characters; a text in single quotes."""
    return (repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False))[:most]


def too_deep(graph: Graph) -> Iterator[Detail]:
    """At most one error: the end of a chain longer than ComfyUI can follow. Expects no cycles."""
    depths: dict[str, int] = {}
    for root in graph.prompt:
        stack = [root]
        while stack:
            node_id = stack[-1]
            sources = [source for _, (source, _) in links_of(graph.prompt, node_id)]
            waiting = [source for source in sources if source not in depths]
            if waiting:
                stack += waiting
            else:
                depths[node_id] = 1 + max((depths[source] for source in sources), default=0)
                stack.pop()
    deepest = max(depths, key=depths.__getitem__, default=None)
    if deepest is not None and depths[deepest] > MAX_DEPTH:
        message = (
            f"Node {deepest} is at the end of a chain of {depths[deepest]} linked nodes; "
            f"ComfyUI follows at most {MAX_DEPTH}"
        )
        yield Detail("TOO_DEEP", message, graph.node_paths[deepest])
