"""Validates what an owner submits for an app version: the graph, its inputs and its outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from django.conf import settings

from accounts.models import User
from comfyserve.api.errors import Detail, ValidationFailed
from workflows.graph import formats, parsing

from . import inference, parameters
from .parameters import NamedOutput, Parameter

MAX_PARAMETERS = 100  # inputs, and outputs


@dataclass(frozen=True)
class Declared:
    source: Any  # the workflow, unwrapped
    graph: parsing.Graph
    inputs: list[Parameter]
    outputs: list[NamedOutput]


def declare(workflow: Any, *, user: User, inputs: Any, outputs: Any) -> Declared:
    """`inputs` and `outputs` as validated by the serializers, or None to infer them.

    Raises ValidationFailed with every error under the path of its element.
    """
    reading = formats.read(workflow, user=user, max_nodes=settings.MAX_NODES)
    graph = reading.graph
    named_inputs, named_outputs = inference.of_app_mode(reading.source, graph.prompt)
    mistakes = [
        Detail("INVALID_VALUE", f"An app has at most {MAX_PARAMETERS} {name}", name)
        for name, given in (("inputs", inputs), ("outputs", outputs))
        if given is not None and len(given) > MAX_PARAMETERS
    ]
    if inputs is not None:
        named_inputs = list(_inputs(graph, inputs, mistakes))
    elif not named_inputs:
        named_inputs = inference.expected(graph.prompt)
    if outputs is not None:
        named_outputs = list(_outputs(graph, outputs, mistakes))
    elif not named_outputs:
        named_outputs = inference.outputs(graph.prompt)
    if mistakes:
        raise ValidationFailed(mistakes)
    return Declared(reading.source, graph, named_inputs[:MAX_PARAMETERS], named_outputs[:MAX_PARAMETERS])


def _inputs(graph: parsing.Graph, given: list[dict[str, Any]], mistakes: list[Detail]) -> Iterator[Parameter]:
    names: set[str] = set()
    for i, entry in enumerate(given):
        path = f"inputs.{i}"
        wrong = [*_place_mistakes(graph, entry, path), *_name_mistakes(entry, names, path)]
        mistakes += wrong
        names.add(entry["name"])
        if not wrong:
            found = _merged(graph, entry)
            mistakes += _own_mistakes(found, path)
            yield found


def _merged(graph: parsing.Graph, entry: dict[str, Any]) -> Parameter:
    """The owner's values take precedence over those of the graph and the workers."""
    known = inference.parameter(graph.prompt, entry["node"], entry["input"], called=entry["name"])
    said = {name: value for name, value in entry.items() if value is not None}
    found = replace(known, **said)
    if found.type != known.type and "default" not in said and found.type in parameters.FILES:
        found = replace(found, default=None)
    if "required" not in said:
        needed = found.default is None and found.input not in parameters.SEEDS
        found = replace(found, required=needed)
    return found


def _place_mistakes(graph: parsing.Graph, entry: dict[str, Any], path: str) -> Iterator[Detail]:
    node = graph.prompt.get(entry["node"])
    if node is None:
        yield Detail("INVALID_VALUE", f"The workflow has no node '{entry['node']}'", f"{path}.node")
    elif parsing.link(node["inputs"].get(entry["input"])):
        message = f"The input '{entry['input']}' of node '{entry['node']}' is linked to another node"
        yield Detail("INVALID_VALUE", message, f"{path}.input")


def _name_mistakes(entry: dict[str, Any], taken: set[str], path: str) -> Iterator[Detail]:
    name = entry["name"]
    if not parameters.NAME.fullmatch(name):
        message = "A name has lower-case letters, digits and '_', and begins with a letter"
        yield Detail("INVALID_VALUE", message, f"{path}.name")
    elif name in taken:
        yield Detail("INVALID_VALUE", f"The name '{name}' is used twice", f"{path}.name")


def _own_mistakes(found: Parameter, path: str) -> Iterator[Detail]:
    if found.default is not None:
        wrong = parameters.mistake(found, found.default, choices=found.choices, path=f"{path}.default")
        if wrong:
            yield wrong
    if found.minimum is not None and found.maximum is not None and found.minimum > found.maximum:
        yield Detail("INVALID_VALUE", "The minimum is above the maximum", f"{path}.minimum")


def _outputs(
    graph: parsing.Graph, given: list[dict[str, Any]], mistakes: list[Detail]
) -> Iterator[NamedOutput]:
    names: set[str] = set()
    for i, entry in enumerate(given):
        path = f"outputs.{i}"
        if entry["node"] not in graph.prompt:
            message = f"The workflow has no node '{entry['node']}'"
            mistakes.append(Detail("INVALID_VALUE", message, f"{path}.node"))
        mistakes += _name_mistakes(entry, names, path)
        names.add(entry["name"])
        yield NamedOutput(**{name: value for name, value in entry.items() if value is not None})
