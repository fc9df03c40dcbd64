"""Predicts ComfyUI's validation of a prompt from its `object_info`, without contacting it.

The checks, their names and their order are those of ComfyUI's own `validate_prompt`, so that its errors and
these produce the same messages (`refusals`). What only ComfyUI can know is not guessed: a class may validate
its inputs in its own code, and a file may have been added since. Such findings are `uncertain`.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from comfyui.types import InputError, NodeErrors

from . import input_files, links, refusals
from .parsing import Prompt

NO_OUTPUTS = "prompt_no_outputs"
UNKNOWN_CLASS = "invalid_prompt"
ALL_FAILED = "prompt_outputs_failed_validation"
UPLOADS = ("image_upload", "video_upload", "audio_upload", "animated_image_upload", "file_upload")


@dataclass
class Verdict:
    """`refusal` is ComfyUI's error type if it would reject the whole prompt, else None. `outputs` are the
    output nodes that it would run, `left_out` those that it would skip.
    """

    refusal: str | None = None
    node_errors: dict[str, NodeErrors] = field(default_factory=dict)
    uncertain: set[tuple[str, str]] = field(default_factory=set)  # (node, input): ComfyUI may accept it
    unknown: dict[str, str] = field(default_factory=dict)  # node -> class missing in this ComfyUI
    outputs: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    models: Container[str] = frozenset()

    @property
    def count(self) -> int:
        """Number of errors: the ComfyUI with the fewest is closest to being able to run the prompt."""
        return len(self.unknown) + sum(len(found.errors) for found in self.node_errors.values())

    @property
    def certain(self) -> bool:
        """Whether ComfyUI would definitely reject or skip what this predicts."""
        if self.refusal in (NO_OUTPUTS, UNKNOWN_CLASS):
            return True
        found = [(id_, each.input_name) for id_, node in self.node_errors.items() for each in node.errors]
        return not found or any(place not in self.uncertain for place in found)


def verdict_of(
    prompt: Prompt, object_info: Mapping[str, Any], *, models: Container[str] = frozenset()
) -> Verdict:
    """Validate a prompt that has passed `parsing`: its links lead to existing nodes and form no cycle.

    `models` are files known to exist there, even if `object_info` is older and does not list them.
    """
    found = Verdict(models=models)
    found.unknown = {
        id_: node["class_type"]
        for id_, node in prompt.items()
        if not isinstance(object_info.get(node["class_type"]), dict)
    }
    if found.unknown:
        found.refusal = UNKNOWN_CLASS
        return found
    outputs = [id_ for id_, node in prompt.items() if object_info[node["class_type"]].get("output_node")]
    if not outputs:
        found.refusal = NO_OUTPUTS
        return found
    _judge_outputs(prompt, object_info, outputs, found)
    if not found.outputs:
        found.refusal = ALL_FAILED
    return found


def _judge_outputs(
    prompt: Prompt, object_info: Mapping[str, Any], outputs: list[str], found: Verdict
) -> None:
    errors: dict[str, list[InputError]] = {}
    for output in outputs:
        reached = _reached(prompt, object_info, output, errors, found)
        wrong = [id_ for id_ in reached if errors[id_]]
        (found.left_out if wrong else found.outputs).append(output)
        for id_ in wrong:
            known = found.node_errors.setdefault(
                id_, NodeErrors(id_, prompt[id_]["class_type"], errors[id_], [])
            )
            known.dependent_outputs.append(output)


def _reached(
    prompt: Prompt,
    object_info: Mapping[str, Any],
    output: str,
    errors: dict[str, list[InputError]],
    found: Verdict,
) -> list[str]:
    """The nodes that ComfyUI validates for an output: it follows declared inputs, except links of the wrong
    type. Fills `errors` for each node.
    """
    reached: dict[str, None] = {}
    stack = [output]
    while stack:
        id_ = stack.pop()
        if id_ in reached:
            continue
        reached[id_] = None
        if id_ not in errors:
            errors[id_] = list(_errors(prompt, id_, object_info, found))
        blamed = {each.input_name for each in errors[id_]}
        for name, _ in _declared(object_info[prompt[id_]["class_type"]]):
            link = links.link(prompt[id_]["inputs"].get(name))
            if link and name not in blamed and link[0] in prompt:
                stack.append(link[0])
    return list(reached)


# -- one node ------------------------------------------------------------------------------------------
def _declared(about: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Mapping[str, Any], bool]]]:
    """Yield (name, (type, options, required)) of each input."""
    sections = about.get("input") or {}
    for section in ("required", "optional"):
        for name, spec in (sections.get(section) or {}).items():
            if isinstance(spec, list) and spec:
                options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
                yield name, (spec[0], options, section == "required")


def _errors(prompt: Prompt, id_: str, object_info: Mapping[str, Any], found: Verdict) -> Iterator[InputError]:
    inputs = prompt[id_]["inputs"]
    for name, (type_, options, required) in _declared(object_info[prompt[id_]["class_type"]]):
        if name not in inputs:
            if required:
                yield _error("required_input_missing", "Required input is missing", name, name)
            continue
        value = inputs[name]
        if isinstance(value, list):
            error = _link_error(prompt, value, name, (type_, options), object_info)
        else:
            error = _value_error(value, name, type_, options)
            if error and error.type == "value_not_in_list":
                if isinstance(value, str) and value.replace("\\", "/") in found.models:
                    error = None  # added since
                elif _may_be_taken(name, value, type_, options):
                    found.uncertain.add((id_, name))
        if error:
            yield error


def _error(type_: str, message: str, details: str, name: str, **more: Any) -> InputError:
    return InputError(type_, message, details, name, {"input_name": name, **more})


def _link_error(
    prompt: Prompt, value: list[Any], name: str, config: tuple[Any, Any], object_info: Mapping[str, Any]
) -> InputError | None:
    link = links.link(value)
    if link is None:
        message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
        return _error("bad_linked_input", message, name, name, received_value=value)
    outputs = object_info[prompt[link[0]]["class_type"]].get("output") or []
    if link[1] >= len(outputs):
        message = "Exception when validating node"
        return _error("exception_during_validation", message, "list index out of range", name)
    received, wanted = outputs[link[1]], config[0]
    if _fits(received, wanted):
        return None
    details = f"{name}, received_type({received}) mismatch input_type({wanted})"
    return _error(
        "return_type_mismatch",
        "Return type mismatch between linked nodes",
        details,
        name,
        input_config=list(config),
        received_type=received,
        linked_node=value,
    )


def _fits(received: Any, wanted: Any) -> bool:
    """Compare types as ComfyUI does; custom nodes use "*" for a type that matches every other."""
    if received == wanted or "*" in (received, wanted):
        return True
    if not isinstance(received, str) or not isinstance(wanted, str):
        return False
    given = {part.strip() for part in received.split(",")}
    return not given.isdisjoint(part.strip() for part in wanted.split(","))


def _value_error(value: Any, name: str, type_: Any, options: Mapping[str, Any]) -> InputError | None:
    if isinstance(value, dict) and "__value__" in value:
        value = value["__value__"]
    config = [type_, dict(options)]
    try:
        number = _converted(value, type_)
    except (ValueError, TypeError, OverflowError) as exc:
        message = f"Failed to convert an input value to a {type_} value"
        return _error("invalid_input_type", message, f"{name}, {value}, {exc}", name, input_config=config)
    if isinstance(number, int | float) and not isinstance(value, bool):
        least, most = options.get("min"), options.get("max")
        if isinstance(least, int | float) and number < least:
            message = f"Value {number} smaller than min of {least}"
            return _error("value_smaller_than_min", message, name, name, input_config=config)
        if isinstance(most, int | float) and number > most:
            message = f"Value {number} bigger than max of {most}"
            return _error("value_bigger_than_max", message, name, name, input_config=config)
    choices = type_ if isinstance(type_, list) else options.get("options") if type_ == "COMBO" else None
    if isinstance(choices, list) and not _is_among(value, choices, options):
        details = f"{name}: '{value}' not in (list of length {len(choices)})"
        more = {"input_config": config, "received_value": value}
        return _error("value_not_in_list", "Value not in list", details, name, **more)
    return None


def _converted(value: Any, type_: Any) -> Any:
    match type_:
        case "INT":
            return int(value)
        case "FLOAT":
            return float(value)
    return value


def _is_among(value: Any, choices: list[Any], options: Mapping[str, Any]) -> bool:
    if value in choices:
        return True
    if options.get("remote") or options.get("multi_select"):
        return True  # the editor gets the choices from another server, or the value is a list of them
    takes_file = any(options.get(name) for name in UPLOADS)
    return takes_file and isinstance(value, str) and input_files.names_file(value)


def _may_be_taken(name: str, value: Any, type_: Any, options: Mapping[str, Any]) -> bool:
    """Whether ComfyUI may accept a value that is not in its list.

    Lists of files change, and only newer versions check the options of a `COMBO`.
    """
    takes_file = any(options.get(each) for each in UPLOADS)
    return takes_file or type_ == "COMBO" or refusals.names_model(name, value)
