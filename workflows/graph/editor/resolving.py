"""Follows an input's link through subgraphs, reroutes and bypassed nodes to the node that makes the value.

Implemented as a loop, since a file may chain thousands of reroutes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .document import BYPASSED, LOST_INPUT, Link
from .live import GET, REROUTES, SET, LiveGraph, LiveNode, LiveWidget

INPUT_NODE = str(LOST_INPUT)


@dataclass
class Scope:
    """An occurrence of a graph: the main one, or a subgraph inside one of its instances."""

    graph: LiveGraph
    path: tuple[str, ...] = ()
    parent: Scope | None = None
    instance: LiveNode | None = None
    children: dict[str, Scope] = field(default_factory=dict)

    def id_of(self, node_id: str) -> str:
        return ":".join((*self.path, node_id))


@dataclass(frozen=True)
class Output:
    """An output of a real node."""

    node_id: str
    slot: int


@dataclass(frozen=True)
class Shown:
    """The value of an inner widget that a subgraph instance exposes."""

    instance_id: str
    widget: LiveWidget


class Broken(Exception):
    """A link that leads nowhere, or in a cycle."""


@dataclass
class _At:
    scope: Scope
    live: LiveNode
    slot: int
    type: str | None  # of the input being followed; None to read it again
    entering: bool  # True: at an input; False: at an output


def resolve(scope: Scope, live: LiveNode, slot: int) -> Output | Shown | None:
    """Return what the input receives; None if nothing. Raises Broken."""
    at: _At | Output | Shown | None = _At(scope, live, slot, None, entering=True)
    seen: set[tuple[Any, ...]] = set()
    while isinstance(at, _At):
        mark = (at.scope.path, at.live.id, at.slot, at.entering)
        if mark in seen:
            raise Broken("its links lead around in a circle")
        seen.add(mark)
        at = _through_input(at) if at.entering else _through_output(at)
    return at


def _through_input(at: _At) -> _At | Shown | None:
    if not 0 <= at.slot < len(at.live.inputs):
        raise Broken(f"node {at.scope.id_of(at.live.id)} has no input {at.slot}")
    given = at.live.inputs[at.slot]
    if given.link is None:
        return None
    link = at.scope.graph.graph.links.get(given.link)
    if link is None:
        raise Broken(f"the link {given.link} at its input '{given.name}' does not exist")
    if at.scope.instance and link.source == INPUT_NODE:
        return _out_of_subgraph(at.scope, link)
    source = at.scope.graph.nodes.get(link.source)
    if source is None:
        raise Broken(f"its input '{given.name}' is linked to node {link.source}, which does not exist")
    return _At(at.scope, source, link.source_slot, given.type if at.type is None else at.type, entering=False)


def _out_of_subgraph(scope: Scope, link: Link) -> _At | Shown | None:
    instance, parent = scope.instance, scope.parent
    if instance is None or parent is None:
        raise Broken("it is linked to the inputs of a subgraph, outside of any")
    if not 0 <= link.source_slot < len(instance.inputs):
        raise Broken(f"the subgraph has no input {link.source_slot}")
    given = instance.inputs[link.source_slot]
    if given.link is not None:
        return _At(parent, instance, link.source_slot, None, entering=True)
    widget = instance.widget(given.widget)
    return Shown(parent.id_of(instance.id), widget) if widget else None


def _through_output(at: _At) -> _At | Output | None:
    live = at.live
    if live.node.mode == BYPASSED:
        index = _beside(live, at.slot, at.type or "*")
        return None if index is None else _At(at.scope, live, index, None, entering=True)
    if live.inside:
        return _into_subgraph(at, live.inside)
    if live.node.type in REROUTES:
        return _At(at.scope, live, 0, at.type, entering=True) if live.inputs else None
    if live.node.type == GET:
        return _from_setter(at)
    if live.node.type == SET:
        return _At(at.scope, live, 0, at.type, entering=True) if live.inputs else None
    return None if live.virtual else Output(at.scope.id_of(live.id), at.slot)


def _into_subgraph(at: _At, inside: LiveGraph) -> _At | None:
    if not 0 <= at.slot < len(inside.graph.outputs):
        raise Broken(f"the subgraph {at.live.title} has no output {at.slot}")
    links = (inside.graph.links.get(id_) for id_ in inside.graph.outputs[at.slot].links)
    link = next((link for link in links if link), None)
    if link is None:
        return None
    if link.source == INPUT_NODE:  # passed straight through
        return _At(at.scope, at.live, link.source_slot, None, entering=True)
    scope = at.scope.children[at.live.id]
    source = scope.graph.nodes.get(link.source)
    if source is None:
        raise Broken(
            f"output {at.slot} of the subgraph {at.live.title} comes from a node that does not exist"
        )
    return _At(scope, source, link.source_slot, at.type, entering=False)


def _from_setter(at: _At) -> _At | None:
    """KJNodes' GetNode returns what the SetNode of the same name receives, in this or an enclosing graph."""
    name = _name(at.live)
    scope: Scope | None = at.scope
    while scope:
        for live in scope.graph.nodes.values():
            if live.node.type == SET and _name(live) == name and live.inputs:
                return _At(scope, live, 0, at.type, entering=True)
        scope = scope.parent
    raise Broken(f"there is no Set node named {name!r}")


def _name(live: LiveNode) -> Any:
    given = live.node.values
    return given[0] if isinstance(given, list) and given else None


# -- bypassed nodes --------------------------------------------------------------------------------------
def _beside(live: LiveNode, slot: int, type_: str) -> int | None:
    """The input that replaces the output of a bypassed node; None if there is none."""
    types = [given.type for given in live.inputs]
    if not types:
        return None
    if type_ in ("*", ""):
        return slot if len(types) > slot else 0
    output = live.outputs[slot] if slot < len(live.outputs) else "*"
    if slot < len(types) and _fits(types[slot], output) and _fits(types[slot], type_):
        return slot
    if type_ in types:
        return types.index(type_)
    return next((i for i, each in enumerate(types) if _fits(each, output) and _fits(each, type_)), None)


def _fits(one: str, other: str) -> bool:
    """Whether an output of one type may be linked to an input of the other; types may be lists ("A,B")."""
    if one in ("", "*", "0") or other in ("", "*", "0"):
        return True
    return not {part.lower() for part in one.split(",")}.isdisjoint(part.lower() for part in other.split(","))
