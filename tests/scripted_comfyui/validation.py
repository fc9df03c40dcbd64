"""What the scripted ComfyUI accepts: the real one's responses to common errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.scripted_comfyui.nodes import NodeClass

Graph = Mapping[str, Any]


@dataclass
class Verdict:
    error: dict[str, Any] | None = None
    outputs: list[str] = field(default_factory=list)
    node_errors: dict[str, Any] = field(default_factory=dict)


def judge(
    graph: Graph,
    classes: Mapping[str, NodeClass],
    *,
    only: list[str] | None = None,
    modern: bool = False,
) -> Verdict:
    """`only`: the outputs that are wanted; None for all."""
    for node_id, node in graph.items():
        if node.get("class_type") not in classes:
            return Verdict(error=_unknown_class(node_id, node, modern=modern))
    outputs = [
        node_id
        for node_id, node in graph.items()
        if classes[node["class_type"]].is_output and (only is None or node_id in only)
    ]
    if not outputs:
        return Verdict(error=_error("prompt_no_outputs", "Prompt has no outputs", ""))
    node_errors: dict[str, Any] = {}
    good = [
        output
        for output in outputs
        if not (_has_cycle(output, graph) or _note_errors(output, output, graph, classes, node_errors))
    ]
    if good:
        return Verdict(outputs=good, node_errors=node_errors)
    details = "\n".join(error["details"] for each in node_errors.values() for error in each["errors"])
    error = _error("prompt_outputs_failed_validation", "Prompt outputs failed validation", details)
    return Verdict(error=error, node_errors=node_errors)


def _unknown_class(node_id: str, node: Mapping[str, Any], *, modern: bool) -> dict[str, Any]:
    where = f"Node ID '#{node_id}'"
    name = node.get("class_type")
    title = node.get("_meta", {}).get("title", name)
    if modern:
        message = f"Node '{title}' not found. The custom node may not be installed."
        if "class_type" not in node:
            message = f"Node '{title or node_id}' has no class_type. The workflow may be corrupted."
        return _error("missing_node_type", message, where) | {
            "extra_info": {"node_id": node_id, "class_type": name, "node_title": title}
        }
    if "class_type" not in node:
        message = "Cannot execute because a node is missing the class_type property."
    else:
        message = f"Cannot execute because node {name} does not exist."
    return _error("invalid_prompt", message, where)


def no_prompt() -> dict[str, Any]:
    return _error("no_prompt", "No prompt provided", "No prompt provided")


def wrong_id() -> dict[str, Any]:
    message = "prompt_id must be a canonical UUID"
    return _error("invalid_prompt_id", message, message)


def upstream(node: Mapping[str, Any], graph: Graph) -> list[str]:
    """The nodes that this one takes inputs from."""
    values = node.get("inputs", {}).values()
    return [value[0] for value in values if isinstance(value, list) and len(value) == 2 and value[0] in graph]


def _has_cycle(node_id: str, graph: Graph, path: tuple[str, ...] = ()) -> bool:
    """The real one recurses to Python's limit: the output fails validation, and no node is named."""
    if node_id in path:
        return True
    return any(_has_cycle(each, graph, (*path, node_id)) for each in upstream(graph[node_id], graph))


def _note_errors(
    output: str, node_id: str, graph: Graph, classes: Mapping[str, NodeClass], found: dict[str, Any]
) -> bool:
    """Add what is wrong with a node and those before it; whether anything is."""
    node = graph[node_id]
    errors = _input_errors(node.get("inputs", {}), classes[node["class_type"]])
    if errors:
        entry = found.setdefault(
            node_id, {"errors": errors, "dependent_outputs": [], "class_type": node["class_type"]}
        )
        if output not in entry["dependent_outputs"]:
            entry["dependent_outputs"].append(output)
    before = [_note_errors(output, each, graph, classes, found) for each in upstream(node, graph)]
    return bool(errors) or any(before)


def _input_errors(inputs: Mapping[str, Any], node_class: NodeClass) -> list[dict[str, Any]]:
    errors = []
    for name, (kind, *options) in node_class.required.items():
        limits = options[0] if options else {}
        value = inputs.get(name)
        if value is None:
            errors.append(
                {
                    "type": "required_input_missing",
                    "message": "Required input is missing",
                    "details": name,
                    "extra_info": {"input_name": name},
                }
            )
        elif kind in ("INT", "FLOAT") and not isinstance(value, list):
            errors.extend(_number_errors(name, value, kind, limits))
    return errors


def _number_errors(name: str, value: float, kind: str, limits: Mapping[str, Any]) -> list[dict[str, Any]]:
    info = {"input_name": name, "input_config": [kind, limits], "received_value": value}
    errors = []
    if "min" in limits and value < limits["min"]:
        message = f"Value {value} smaller than min of {limits['min']}"
        errors.append(
            {"type": "value_smaller_than_min", "message": message, "details": name, "extra_info": info}
        )
    if "max" in limits and value > limits["max"]:
        message = f"Value {value} bigger than max of {limits['max']}"
        errors.append(
            {"type": "value_bigger_than_max", "message": message, "details": name, "extra_info": info}
        )
    return errors


def _error(kind: str, message: str, details: str) -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": {}}
