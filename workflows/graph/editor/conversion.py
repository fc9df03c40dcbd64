"""Converts the editor's own file to the prompt that the editor would send."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from comfyserve.api.errors import Detail
from comfyserve.near_names import did_you_mean, near

from . import definitions, document, resolving, values
from .definitions import UNDEFINED
from .document import BYPASSED, MUTED, Malformed, Node
from .live import Builder, LiveNode, LiveWidget
from .resolving import Broken, Output, Scope, Shown
from .values import Choose

Prompt = dict[str, dict[str, Any]]
Place = tuple[str, str]  # (node id in the prompt, name of its input)
GROUP_NODES = ("workflow>", "workflow/")
DEEPEST = 100  # maximum nesting depth of subgraphs


@dataclass
class Conversion:
    """`prompt` is complete only if there are no `errors`. Paths are positions in the file."""

    prompt: Prompt = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    errors: list[Detail] = field(default_factory=list)
    paths: dict[Place, str] = field(default_factory=dict)
    node_paths: dict[str, str] = field(default_factory=dict)
    # (subgraph instance, widget it exposes) -> the inputs inside that receive its value
    promoted: dict[Place, list[Place]] = field(default_factory=dict)


def to_prompt(
    file: Mapping[str, Any],
    object_info: Mapping[str, Any],
    *,
    path: str = "workflow",
    max_nodes: int = 10_000,
    now: datetime | None = None,
    choose: Choose = secrets.choice,
) -> Conversion:
    """Convert a file saved by ComfyUI's editor. No I/O; never raises for the content: see `errors`.

    `object_info` is ComfyUI's response of that name. `choose` picks from {a|b} in dynamic prompts, `now`
    fills in dates in file names.
    """
    found = Conversion()
    try:
        read = document.read(file, path)
        builder = Builder(read, object_info)
        root = builder.build()
    except Malformed as exc:
        found.errors.append(exc.detail)
        return found
    except ValueError as exc:
        found.errors.append(Detail("CYCLE", f"The subgraph '{exc}' contains itself", f"{path}.definitions"))
        return found
    found.warnings += builder.warnings
    try:
        scopes = _unfolded(Scope(root), max_nodes)
    except OverflowError:
        message = f"With its subgraphs unfolded, the workflow has more than {max_nodes} nodes"
        found.errors.append(Detail("TOO_MANY_NODES", message, path))
        return found
    _Writer(found, builder, choose, now or datetime.now()).write(scopes)  # noqa: DTZ005  (local time, as in the editor)
    return found


def _unfolded(root: Scope, max_nodes: int) -> list[Scope]:
    """Every graph, once per occurrence. Raises OverflowError if there are too many nodes or levels."""
    scopes, count = [root], 0
    for scope in scopes:
        count += len(scope.graph.nodes)
        if count > max_nodes or len(scope.path) > DEEPEST:
            raise OverflowError
        for live in scope.graph.nodes.values():
            if live.inside:
                child = Scope(live.inside, (*scope.path, live.id), scope, live)
                scope.children[live.id] = child
                scopes.append(child)
    return scopes


class _Writer:
    def __init__(self, found: Conversion, builder: Builder, choose: Choose, now: datetime) -> None:
        self._found = found
        self._builder = builder
        self._choose = choose
        self._now = now

    def write(self, scopes: list[Scope]) -> None:
        for scope in scopes:
            for live in scope.graph.nodes.values():
                self._write_node(scope, live)
        self._drop_lost_links()

    def _write_node(self, scope: Scope, live: LiveNode) -> None:
        id_ = scope.id_of(live.id)
        if live.virtual:
            self._note_proxies(id_, live)
            return
        if live.node.mode in (MUTED, BYPASSED):
            return
        if live.definition is None:
            self._unknown(live)
            return
        inputs: dict[str, Any] = {}
        for widget in live.widgets:
            if widget.spec.sent and (value := self._sent(live, widget)) is not UNDEFINED:
                inputs[widget.name] = {"__value__": value} if isinstance(value, list) else value
                self._found.paths[id_, widget.name] = widget.path or live.node.path
        for slot, given in enumerate(live.inputs):
            self._write_link(scope, live, slot, given.name, inputs)
        self._missing_browser(live, inputs)
        self._found.node_paths[id_] = live.node.path
        self._found.prompt[id_] = {
            "inputs": inputs,
            "class_type": live.definition.class_type,
            "_meta": {"title": live.title},
        }

    def _write_link(self, scope: Scope, live: LiveNode, slot: int, name: str, inputs: dict[str, Any]) -> None:
        id_ = scope.id_of(live.id)
        try:
            source = resolving.resolve(scope, live, slot)
        except Broken as exc:
            self._error("INVALID_LINK", live.node, str(exc))
            return
        match source:
            case Output():
                inputs[name] = [source.node_id, source.slot]
                self._found.paths[id_, name] = live.node.path
            case Shown():
                value = source.widget.current()
                if value is UNDEFINED:
                    return
                inputs[name] = {"__value__": value} if isinstance(value, list) else value
                self._found.paths[id_, name] = source.widget.path or live.node.path
                place = (source.instance_id, source.widget.name)
                self._found.promoted.setdefault(place, []).append((id_, name))

    def _sent(self, live: LiveNode, widget: LiveWidget) -> Any:
        """The value of a widget as the editor writes it to the prompt."""
        value = widget.current()
        if not isinstance(value, str):
            return value
        if widget.spec.kind == "STRING" and widget.spec.options.get("dynamicPrompts") is True:
            return values.dynamic(value, self._choose)
        if widget.name == "filename_prefix" and live.node.type in definitions.SAVES_FILES:
            return values.replaced(value, lookup=self._builder.lookup, now=self._now)
        return value

    def _drop_lost_links(self) -> None:
        """Remove links to nodes that are not in the prompt because they are muted."""
        prompt = self._found.prompt
        for node in prompt.values():
            node["inputs"] = {
                name: value
                for name, value in node["inputs"].items()
                if not (isinstance(value, list) and len(value) == 2 and value[0] not in prompt)
            }

    def _note_proxies(self, id_: str, live: LiveNode) -> None:
        for owner, name in live.proxies:
            self._found.promoted.setdefault((id_, name), []).append((f"{id_}:{owner}", name))

    # -- unsupported -----------------------------------------------------------------------------------
    def _unknown(self, live: LiveNode) -> None:
        node = live.node
        linked = any(slot.link is not None for slot in node.inputs) or any(
            slot.links for slot in node.outputs
        )
        if not linked:
            self._found.warnings.append(
                f"Node {node.id} of the unknown class '{node.type}' is linked to nothing and was left out"
            )
            return
        if node.type.startswith(GROUP_NODES):
            message = (
                "it is a group node of older editors; open the file in the editor and make it a subgraph"
            )
            self._error("UNSUPPORTED_NODE", node, message, at="type")
            return
        alike = did_you_mean(near(node.type, self._builder.object_info, cutoff=0.7))
        package = node.properties.get("cnr_id") or node.properties.get("aux_id")
        hint = f"; it may come from the package '{str(package)[:100]}'" if package else ""
        message = f"no worker has a node of the class '{node.type}'{alike}{hint}"
        self._error("UNKNOWN_NODE", node, message, at="type")

    def _missing_browser(self, live: LiveNode, inputs: Mapping[str, Any]) -> None:
        for widget in live.widgets:
            made = definitions.MADE_IN_BROWSER.get(widget.spec.kind)
            if made and not isinstance(inputs.get(widget.name), list):
                self._error(
                    "NEEDS_EDITOR", live.node, f"it needs {made}, which only the editor's page can make"
                )

    def _error(self, code: str, node: Node, message: str, at: str = "") -> None:
        where = f"{node.path}.{at}" if at else node.path
        self._found.errors.append(
            Detail(code, f"Node {node.id} ({node.title or node.type}): {message}", where)
        )
