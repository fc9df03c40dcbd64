"""The inputs of an app: their types, the validation of values, and their JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from comfyserve.api.errors import Detail
from comfyserve.near_names import did_you_mean, near
from workflows.graph import input_files

from . import definitions

TEXTS = ("string", "text")
FILES = ("image", "mask", "video", "audio", "file")
MEDIA = {  # the content type prefixes that each accepts
    "image": ("image/",),
    "mask": ("image/",),
    "audio": ("audio/", "video/"),
    "video": ("video/", "image/"),
}
CHOICES = ("choice", "model", "lora")
TYPES = (*TEXTS, "integer", "number", "boolean", *CHOICES, *FILES)
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
SEEDS = ("seed", "noise_seed")
LARGEST_SEED = 2**53 - 1  # the largest integer that every JSON parser keeps exact
LONGEST_TEXT = 100_000  # characters
SHOWN_CHOICES = 5  # in an error


@dataclass(frozen=True)
class Parameter:
    """An input of an app: a name and a type for one input of a node.

    `choices` None: those that the workers currently have. `default` None: there is none.
    """

    name: str
    node: str
    input: str
    type: str
    title: str = ""
    description: str = ""
    default: Any = None
    required: bool = False
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: list[str] | None = None

    @property
    def is_seed(self) -> bool:
        """If omitted, a random value is drawn."""
        return self.type == "integer" and self.input in SEEDS and not self.required


@dataclass(frozen=True)
class NamedOutput:
    """A node's output, under a name."""

    name: str
    node: str
    title: str = ""
    description: str = ""


def as_json(found: Parameter | NamedOutput) -> dict[str, Any]:
    return asdict(found)


def inputs_of(stored: list[dict[str, Any]]) -> list[Parameter]:
    return [Parameter(**each) for each in stored]


def outputs_of(stored: list[dict[str, Any]]) -> list[NamedOutput]:
    return [NamedOutput(**each) for each in stored]


def choices_of(parameter: Parameter, prompt: Mapping[str, Any]) -> list[str] | None:
    """Its declared choices, else the workers' current ones; None if neither is known."""
    if parameter.choices is not None or parameter.type not in CHOICES:
        return parameter.choices
    return definitions.choices(str(prompt[parameter.node]["class_type"]), parameter.input)


# -- values ----------------------------------------------------------------------------------------------
def mistake(parameter: Parameter, value: Any, *, choices: list[str] | None, path: str) -> Detail | None:
    """The error in a value; None if it is valid."""
    if parameter.type in ("integer", "number"):
        return _number_mistake(parameter, value, path)
    if parameter.type == "boolean":
        return None if isinstance(value, bool) else _wrong(path, "must be true or false", "INVALID_TYPE")
    if not isinstance(value, str):
        return _wrong(path, "must be a string", "INVALID_TYPE")
    if parameter.type in CHOICES:
        return _choice_mistake(value, choices, path)
    if parameter.type in FILES and not _is_file(value):
        what = f"must be a file_id, an http(s) address or a data: URL of the {parameter.type}"
        return _wrong(path, what)
    if parameter.type in TEXTS and len(value) > LONGEST_TEXT:
        return _wrong(path, f"has more than {LONGEST_TEXT} characters")
    return None


def _wrong(path: str, what: str, code: str = "INVALID_VALUE") -> Detail:
    return Detail(code, f"'{path}' {what}", path)


def _number_mistake(parameter: Parameter, value: Any, path: str) -> Detail | None:
    whole = parameter.type == "integer"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return _wrong(path, f"must be {'a whole number' if whole else 'a number'}", "INVALID_TYPE")
    low, high = parameter.minimum, parameter.maximum
    if (low is not None and value < low) or (high is not None and value > high):
        return _wrong(path, f"must be {_range(low, high)}; it is {str(value)[:40]}")
    return None


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"from {low:.15g} to {high:.15g}"
    return f"at least {low:.15g}" if high is None else f"at most {high:.15g}"


def _choice_mistake(value: str, choices: list[str] | None, path: str) -> Detail | None:
    if choices is None or value in choices:
        return None
    hint = did_you_mean(near(value, choices)) or f"; such as {', '.join(choices[:SHOWN_CHOICES])}"
    return _wrong(path, f"has no choice '{value[:100]}'{hint}")


def _is_file(value: str) -> bool:
    return bool(
        input_files.FILE_ID.fullmatch(value)
        or input_files.ADDRESS.match(value)
        or input_files.DATA.match(value)
    )


# -- JSON Schema -------------------------------------------------------------------------------------------
JSON_TYPES = {"integer": "integer", "number": "number", "boolean": "boolean"}


def schema_of(inputs: list[Parameter], prompt: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the object of inputs. `x-type` is our own, more specific type."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {each.name: property_of(each, prompt) for each in inputs},
        "required": [each.name for each in inputs if each.required],
        "additionalProperties": False,
    }


def property_of(parameter: Parameter, prompt: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {
        "type": JSON_TYPES.get(parameter.type, "string"),
        "title": parameter.title or parameter.name,
        "x-type": parameter.type,
    }
    if parameter.description:
        said["description"] = parameter.description
    if parameter.type in FILES:
        said["description"] = said.get("description") or "A file_id, an http(s) address, or a data: URL"
    if parameter.is_seed:
        said["x-random"] = True  # a new one is drawn if omitted
    elif parameter.default is not None:
        said["default"] = parameter.default
    bounds = {"minimum": parameter.minimum, "maximum": parameter.maximum, "x-step": parameter.step}
    said |= {name: value for name, value in bounds.items() if value is not None}
    choices = choices_of(parameter, prompt)
    if choices:
        said["enum"] = choices
    return said
