"""A workflow as a picture: nodes in layers from left to right, links between them. Only the layout is
computed here; the template draws, and escapes user input.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workflows.graph import parsing

MAX_NODES = 300  # nodes; a larger picture is of no use
WIDTH, HEIGHT = 168, 58  # of a node
ACROSS, BETWEEN, EDGE = 48, 22, 12  # between layers, between nodes of one layer, around everything
SWEEPS = 3  # over the layers, to place nodes next to their neighbours
READABLE = 0.72  # the smallest scale at which a picture is readable
LETTERS = 22  # characters of a title that fit


@dataclass(frozen=True)
class Node:
    id: str
    title: str
    whole_title: str
    class_type: str
    x: int
    y: int
    state: str  # done, cached, running, failed, waiting
    time: str


@dataclass(frozen=True)
class Link:
    path: str
    failed: bool


@dataclass(frozen=True)
class Picture:
    width: int
    height: int
    nodes: list[Node]
    links: list[Link]
    node_width: int = WIDTH

    @property
    def narrow(self) -> int:
        """Pixels: below this width it scrolls, as it would be unreadable."""
        return round(self.width * READABLE)


def draw(
    prompt: parsing.Prompt, *, states: Mapping[str, str], times: Mapping[str, str]
) -> Picture | None:  # fmt: skip
    """None if there are too many nodes. `states` and `times` are by node id; nodes without a state are
    waiting.
    """
    if not prompt or len(prompt) > MAX_NODES:
        return None
    layers = _ordered(prompt, _layers(prompt))
    tallest = max(len(layer) for layer in layers)
    height = 2 * EDGE + tallest * (HEIGHT + BETWEEN) - BETWEEN
    places: dict[str, tuple[int, int]] = {}
    for column, layer in enumerate(layers):
        top = (height - len(layer) * (HEIGHT + BETWEEN) + BETWEEN) // 2
        for row, node_id in enumerate(layer):
            places[node_id] = (EDGE + column * (WIDTH + ACROSS), top + row * (HEIGHT + BETWEEN))
    return Picture(
        width=2 * EDGE + len(layers) * (WIDTH + ACROSS) - ACROSS,
        height=height,
        nodes=[_node(prompt, id_, place, states, times) for id_, place in places.items()],
        links=[
            Link(_curve(places[source], places[id_]), failed=states.get(id_) == "failed")
            for id_ in prompt
            for source in sorted(_sources(prompt, id_))
        ],
    )


def _node(
    prompt: parsing.Prompt,
    id_: str,
    place: tuple[int, int],
    states: Mapping[str, str],
    times: Mapping[str, str],
) -> Node:
    whole = parsing.title_of(prompt, id_)
    title = whole if len(whole) <= LETTERS else f"{whole[: LETTERS - 1]}…"
    class_type = str(prompt[id_]["class_type"])
    return Node(
        id=id_,
        title=title,
        whole_title=whole,
        class_type=class_type if len(class_type) <= LETTERS else f"{class_type[: LETTERS - 1]}…",
        x=place[0],
        y=place[1],
        state=states.get(id_, "waiting"),
        time=times.get(id_, ""),
    )


def _sources(prompt: parsing.Prompt, node_id: str) -> set[str]:
    return {source for _, (source, _) in parsing.links_of(prompt, node_id) if source in prompt}


def _layers(prompt: parsing.Prompt) -> dict[str, int]:
    """For each node, one more than the highest layer of its inputs. Accepted graphs are acyclic."""
    layer: dict[str, int] = {}
    for start in prompt:
        stack = [start]
        while stack:
            node_id = stack[-1]
            missing = [source for source in _sources(prompt, node_id) if source not in layer]
            if missing and node_id not in layer and len(stack) <= len(prompt):
                stack.extend(missing)
                continue
            stack.pop()
            found = [layer.get(source, 0) for source in _sources(prompt, node_id)]
            layer.setdefault(node_id, 1 + max(found) if found else 0)
    return layer


def _ordered(prompt: parsing.Prompt, layer_of: Mapping[str, int]) -> list[list[str]]:
    """The nodes of each layer, moved towards the middle of their neighbours on one side, then the other."""
    layers: list[list[str]] = [[] for _ in range(max(layer_of.values()) + 1)]
    for node_id, number in layer_of.items():
        layers[number].append(node_id)
    before: dict[str, set[str]] = {node_id: _sources(prompt, node_id) for node_id in prompt}
    after: dict[str, set[str]] = defaultdict(set)
    for node_id, sources in before.items():
        for source in sources:
            after[source].add(node_id)
    for sweep in range(SWEEPS):
        neighbours: Mapping[str, set[str]] = after if sweep % 2 else before
        for layer in reversed(layers) if sweep % 2 else layers:
            rows = {id_: row - len(each) / 2 for each in layers for row, id_ in enumerate(each)}
            layer.sort(key=lambda id_, rows=rows, of=neighbours: _middle(rows, of.get(id_, ()), rows[id_]))  # type: ignore[misc]
    return layers


def _middle(rows: Mapping[str, float], neighbours: Any, own: float) -> float:
    found = [rows[neighbour] for neighbour in neighbours]
    return sum(found) / len(found) if found else own


def _curve(source: tuple[int, int], target: tuple[int, int]) -> str:
    x1, y1 = source[0] + WIDTH, source[1] + HEIGHT // 2
    x2, y2 = target[0], target[1] + HEIGHT // 2
    bend = max(ACROSS // 2, (x2 - x1) // 3)
    return f"M{x1},{y1} C{x1 + bend},{y1} {x2 - bend},{y2} {x2},{y2}"
