"""Instantiates a file of the editor: each node with the inputs and widgets that its class has today.

The steps and their order follow the editor's own loading and queueing, since what a node sends depends on
them: widgets take their saved values by position, a subgraph instance exposes widgets of the nodes inside it,
primitives write their value to the widgets linked to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from comfyserve.api.errors import Detail

from . import definitions, values
from .definitions import UNDEFINED, Definition, Widget
from .document import Document, Graph, Node, Slot

NOTES = frozenset({"Note", "MarkdownNote", "Note Plus (mtb)", "Label (rgthree)", "Bookmark (rgthree)"})
SWITCHBOARDS = frozenset(
    {
        "Fast Groups Muter (rgthree)", "Fast Groups Bypasser (rgthree)", "Fast Muter (rgthree)",
        "Fast Bypasser (rgthree)", "Fast Actions Button (rgthree)", "Mute / Bypass Relay (rgthree)",
        "Mute / Bypass Repeater (rgthree)", "Random Unmuter (rgthree)", "Node Collector (rgthree)",
    }
)  # fmt: skip
REROUTES = frozenset({"Reroute", "Reroute (rgthree)"})
PRIMITIVE, GET, SET = "PrimitiveNode", "GetNode", "SetNode"
VIRTUAL = NOTES | SWITCHBOARDS | REROUTES | {PRIMITIVE, GET, SET}
ALIAS = "Node name for S&R"  # the property by which file names refer to a node


@dataclass
class LiveWidget:
    spec: Widget
    value: Any
    path: str = ""  # of the saved value in the submitted document
    initial: Any = UNDEFINED  # for a combo with an upload button

    @property
    def name(self) -> str:
        return self.spec.name

    def assign(self, value: Any, path: str = "") -> None:
        multiline = self.spec.kind == "STRING" and bool(self.spec.options.get("multiline"))
        self.value = values.as_text(value) if multiline or self.spec.kind == "MARKDOWN" else value
        self.path = path or self.path

    def current(self) -> Any:
        """The value as the editor would read it."""
        if self.spec.options.get("rewritten"):
            return values.annotated(self.value, options=self.spec.options, initial=self.initial)
        return self.value


@dataclass
class LiveNode:
    node: Node
    inputs: list[Slot]
    outputs: list[str]  # types
    widgets: list[LiveWidget] = field(default_factory=list)
    definition: Definition | None = None
    inside: LiveGraph | None = None  # only for subgraph instances
    proxies: list[tuple[str, str]] = field(
        default_factory=list
    )  # (node inside, widget) shown on the instance

    @property
    def id(self) -> str:
        return self.node.id

    @property
    def virtual(self) -> bool:
        return self.inside is not None or self.node.type in VIRTUAL

    @property
    def title(self) -> str:
        if self.node.title:
            return self.node.title
        return self.definition.title if self.definition else self.node.type

    def widget(self, name: str | None) -> LiveWidget | None:
        return (
            next((widget for widget in self.widgets if widget.name == name), None)
            if name is not None
            else None
        )

    def widget_of(self, link: int) -> LiveWidget | None:
        """The widget whose value the link replaces."""
        slot = next((slot for slot in self.inputs if slot.link == link), None)
        return self.widget(slot.widget) if slot else None


@dataclass
class LiveGraph:
    graph: Graph
    nodes: dict[str, LiveNode] = field(default_factory=dict)


class Builder:
    """Instantiates a document. Unsupported parts are in `errors`, deviations from the file in `warnings`."""

    def __init__(self, document: Document, object_info: Mapping[str, Any]) -> None:
        self.document = document
        self.object_info = object_info
        self._subgraphs: dict[str, LiveGraph] = {}
        self.errors: list[Detail] = []
        self.warnings: list[str] = []
        self.unknown: dict[str, Node] = {}  # nodes of unknown classes, by path

    def build(self) -> LiveGraph:
        """Return the main graph. Raises ValueError if subgraphs contain each other in a cycle."""
        for id_ in _innermost_first(self.document):
            self._subgraphs[id_] = self._graph(self.document.subgraphs[id_])
        root = self._graph(self.document.root)
        graphs = [root, *reversed(self._subgraphs.values())]
        for graph in graphs:
            _apply_primitives(graph)
        for graph in graphs:
            _copy_inwards(graph)
        self.all = [node for graph in graphs for node in graph.nodes.values()]
        return root

    def lookup(self, name: str, widget: str) -> Any:
        """The value of a widget of the node with this alias or title; UNDEFINED if there is none."""
        named = [live for live in self.all if _alias(live) == name]
        named = named or [live for live in self.all if live.title == name]
        found = named[0].widget(widget) if named else None
        return found.current() if found else UNDEFINED

    # -- nodes -----------------------------------------------------------------------------------------
    def _graph(self, graph: Graph) -> LiveGraph:
        return LiveGraph(graph, {id_: self._node(node) for id_, node in graph.nodes.items()})

    def _node(self, node: Node) -> LiveNode:
        if node.type in self._subgraphs:
            return self._instance(node, self._subgraphs[node.type])
        definition = self._definition(node)
        if definition is None:
            if node.type not in VIRTUAL:
                self.unknown[node.path] = node
            return LiveNode(node, node.inputs, [slot.type for slot in node.outputs])
        return self._real(node, definition)

    def _definition(self, node: Node) -> Definition | None:
        return None if node.type in VIRTUAL else definitions.of(node.type, self.object_info, node.values)

    def _real(self, node: Node, definition: Definition) -> LiveNode:
        widgets = [LiveWidget(spec, spec.default, initial=spec.default) for spec in definition.widgets]
        names = {widget.name for widget in widgets}
        saved = {slot.name: slot for slot in node.inputs}
        inputs = [
            Slot(
                name,
                type_,
                link=saved[name].link if name in saved else None,
                widget=name if name in names else None,
            )
            for name, type_ in definition.inputs.items()
        ]
        # Inputs not in the class: added by a custom node's script, or left over from a removed widget.
        inputs += [
            slot
            for slot in node.inputs
            if slot.name not in definition.inputs and (slot.widget is None or slot.widget in names)
        ]
        extra = [slot.type for slot in node.outputs[len(definition.outputs) :]]
        live = LiveNode(node, inputs, [*definition.outputs, *extra], widgets, definition)
        self._fill(live, definition)
        return live

    def _fill(self, live: LiveNode, definition: Definition) -> None:
        """Assign the saved values to the widgets."""
        node = live.node
        if isinstance(node.values, dict):
            for name, value in node.values.items():
                if found := live.widget(name):
                    found.assign(value, f"{node.path}.widgets_values.{name}")
            return
        given = _migrated(definition, list(enumerate(node.values)))
        places = [widget for widget in live.widgets if widget.spec.saved]
        if len(given) > len(places):
            self.warnings.append(
                f"Node {node.id} ({live.title}): the last {len(given) - len(places)} of its saved values are "
                "left out; it was saved with another version of its class, which had more widgets"
            )
        for widget, (i, value) in zip(places, given, strict=False):
            if node.type.startswith("KSampler") and widget.name == "sampler_name" and isinstance(value, str):
                value = value.removeprefix("sample_")
            widget.assign(value, f"{node.path}.widgets_values.{i}")

    # -- subgraph instances ----------------------------------------------------------------------------
    def _instance(self, node: Node, inside: LiveGraph) -> LiveNode:
        own = inside.graph.inputs
        saved = {slot.name: slot for slot in node.inputs}
        inputs = [
            Slot(slot.name, slot.type, saved[slot.name].link if slot.name in saved else None) for slot in own
        ]
        live = LiveNode(node, inputs, [slot.type for slot in inside.graph.outputs], inside=inside)
        for slot in inputs:
            shown = _shown(slot.name, inside)
            if shown:
                live.widgets.append(
                    LiveWidget(_renamed(shown.spec, slot.name), shown.value, shown.path, shown.initial)
                )
                slot.widget = slot.name
        _fill_instance(live)
        return live


def _innermost_first(document: Document) -> list[str]:
    """Subgraph ids, each after those nested in it. Iterative, since nesting may be deep."""
    order: list[str] = []
    state: dict[str, int] = {}  # 1: started, 2: done
    for root in document.subgraphs:
        stack = [root]
        while stack:
            id_ = stack[-1]
            if state.get(id_) == 2:
                stack.pop()
                continue
            if state.get(id_) is None:
                state[id_] = 1
                inner = {
                    node.type for node in document.subgraphs[id_].nodes.values()
                } & document.subgraphs.keys()
                if any(state.get(other) == 1 for other in inner):
                    raise ValueError(document.subgraphs[id_].name or id_)
                stack.extend(sorted(other for other in inner if state.get(other) is None))
            else:
                state[id_] = 2
                order.append(id_)
                stack.pop()
    return order


def _migrated(definition: Definition, given: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Drop values of inputs that have become plain sockets, if the list has the length that includes them."""
    if not any(forced for forced, _ in definition.places):
        return given
    if sum(size for _, size in definition.places) != len(given):
        return given
    pairs = zip_longest((forced for forced, _ in definition.places), given, fillvalue=None)
    return [value for forced, value in pairs if not forced and value is not None]


def _shown(name: str, inside: LiveGraph) -> LiveWidget | None:
    """The first widget inside that is linked to the subgraph's input of this name."""
    own = next((slot for slot in inside.graph.inputs if slot.name == name), None)
    if own is None:
        return None
    return next(_linked(own, inside), None) or _lost(own, inside)


def _lost(slot: Slot, inside: LiveGraph) -> LiveWidget | None:
    """A widget that existed when the file was saved but was removed from the class inside: its value still
    has a place in the instance's list.
    """
    for id_ in slot.links:
        link = inside.graph.links.get(id_)
        target = inside.nodes.get(link.target) if link else None
        for given in target.node.inputs if target else ():
            if given.link == id_ and given.widget is not None:
                return LiveWidget(Widget(given.widget), UNDEFINED)
    return None


def _linked(slot: Slot, inside: LiveGraph) -> Iterator[LiveWidget]:
    for id_ in slot.links:
        link = inside.graph.links.get(id_)
        target = inside.nodes.get(link.target) if link else None
        widget = target.widget_of(id_) if target else None
        if widget:
            yield widget


def _renamed(spec: Widget, name: str) -> Widget:
    return Widget(name, spec.default, spec.kind, spec.options)


def _fill_instance(live: LiveNode) -> None:
    """Assign values by position, then by the file's list of exposed widgets (`proxyWidgets`), if any."""
    given = live.node.values if isinstance(live.node.values, list) else []
    where = f"{live.node.path}.widgets_values"
    for i, (widget, value) in enumerate(zip(live.widgets, given, strict=False)):
        widget.assign(value, f"{where}.{i}")
    listed = live.node.properties.get("proxyWidgets")
    for i, entry in enumerate(listed if isinstance(listed, list) else []):
        if not isinstance(entry, list) or len(entry) < 2:
            continue
        owner, name = str(entry[0]), str(entry[1])
        if owner != "-1":
            live.proxies.append((owner, name))
        elif i < len(given) and given[i] is not None and (found := live.widget(name)):
            found.assign(given[i], f"{where}.{i}")


def _copy_inwards(graph: LiveGraph) -> None:
    """Copy the values exposed by instances to the widgets inside, in case nothing else sets them."""
    for live in graph.nodes.values():
        if live.inside is None:
            continue
        own = {slot.name: slot for slot in live.inside.graph.inputs}
        for widget in live.widgets:
            for inner in _linked(own[widget.name], live.inside) if widget.name in own else ():
                inner.assign(widget.value, widget.path)


# -- primitives ----------------------------------------------------------------------------------------
def _apply_primitives(graph: LiveGraph) -> None:
    for live in graph.nodes.values():
        if live.node.type != PRIMITIVE or not live.node.outputs:
            continue
        given = live.node.values
        if not isinstance(given, list) or not given:
            continue
        for id_ in live.node.outputs[0].links:
            link = graph.graph.links.get(id_)
            target = graph.nodes.get(link.target) if link else None
            widget = target.widget_of(id_) if target else None
            if widget:
                value = values.rounded(given[0], kind=widget.spec.kind, options=widget.spec.options)
                widget.assign(value, f"{live.node.path}.widgets_values.0")


def _alias(live: LiveNode) -> str | None:
    named = live.node.properties.get(ALIAS)
    if named is None and live.definition and live.node.type not in definitions.SAVES_FILES:
        return live.node.type
    return str(named) if named is not None else None
