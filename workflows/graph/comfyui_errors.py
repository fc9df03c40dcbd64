"""Whose fault it is, and what to tell: ComfyUI's refusals and errors in words for people.

ComfyUI's own texts carry server paths and sometimes the whole graph. Users get the type, a message without
paths, the node and its class; tracebacks stay in the worker's log.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from comfyui.errors import Refused
from comfyui.types import ExecutionError, InputError, NodeErrors

from . import parsing

PATHS = re.compile(r"(?<![\w.])(?:/[\w.@+-]+){2,}/?|[A-Za-z]:\\[^\s'\"]+")
LONGEST = 500  # characters of a message


@dataclass(frozen=True)
class Fault:
    """What went wrong with a workflow."""

    error: str  # for people
    details: dict[str, Any]  # for programs
    lacks: list[str] = field(default_factory=list)  # models or nodes that this ComfyUI does not have
    out_of_memory: bool = False


# -- refusals ------------------------------------------------------------------------------------------
def of_refusal(refused: Refused, prompt: parsing.Prompt) -> Fault:
    """Why ComfyUI took no part of the prompt."""
    found = [
        _input_fault(errors, error, prompt)
        for errors in refused.node_errors.values()
        for error in errors.errors
    ]
    sentences = [sentence for sentence, _ in found] or [_whole(refused, prompt)]
    lacks = [name for _, name in found if name] or _lacking_node(refused, prompt)
    return Fault(
        error="; ".join(dict.fromkeys(sentences))[: LONGEST * 4],
        details={
            "type": refused.type,
            "message": clean(refused.message),
            "node_errors": node_errors(refused.node_errors, prompt),
        },
        lacks=lacks,
    )


def _whole(refused: Refused, prompt: parsing.Prompt) -> str:
    match refused.type:
        case "prompt_no_outputs":
            return "The workflow has no output node: add one that saves or shows something, such as SaveImage"
        case "invalid_prompt" | "missing_node_type":
            missing = _lacking_node(refused, prompt)
            if missing:
                return f"No node of the class '{missing[0]}' is installed"
    return clean(f"ComfyUI refused the workflow: {refused.message}")


def _lacking_node(refused: Refused, prompt: parsing.Prompt) -> list[str]:
    """The class that ComfyUI does not know; it names only the first one, by "Node ID '#7'"."""
    if refused.type not in ("invalid_prompt", "missing_node_type"):
        return []
    found = re.search(r"#([^']+)'", refused.details)
    node = prompt.get(found.group(1)) if found else None
    return [str(node["class_type"])] if node else []


def _input_fault(errors: NodeErrors, error: InputError, prompt: parsing.Prompt) -> tuple[str, str | None]:
    """(a sentence, the name of the model that is missing if that is it)."""
    where = f"Node {errors.node_id} ({parsing.title_of(prompt, errors.node_id)})"
    name = error.input_name or ""
    value = prompt.get(errors.node_id, {"inputs": {}})["inputs"].get(name)
    shown = repr(value)[:80]
    config = error.extra_info.get("input_config")
    limits = config[1] if isinstance(config, list) and len(config) > 1 and isinstance(config[1], dict) else {}
    match error.type:
        case "value_not_in_list" if _names_file(name, value):
            return f"{where}: the model {shown} is not installed", str(value)
        case "value_not_in_list":
            return f"{where}: input '{name}' can not be {shown}", None
        case "value_bigger_than_max":
            return f"{where}: input '{name}' is {shown}, at most {limits.get('max')} is allowed", None
        case "value_smaller_than_min":
            return f"{where}: input '{name}' is {shown}, at least {limits.get('min')} is needed", None
        case "required_input_missing":
            return f"{where}: input '{error.details or name}' is missing", None
        case "invalid_input_type":
            return f"{where}: input '{name}' is {shown}, which is of the wrong type", None
        case "return_type_mismatch":
            return (
                f"{where}: input '{name}' is linked to an output of another type ({clean(error.details)})",
                None,
            )
        case "exception_during_inner_validation" | "exception_during_validation":
            return f"{where}: one of its links leads to nothing", None
    return f"{where}: {clean(error.message)} ({clean(error.details)})", None


def _names_file(name: str, value: Any) -> bool:
    return name in parsing.MODEL_INPUTS or (
        isinstance(value, str) and value.endswith((".safetensors", ".ckpt", ".pt", ".pth", ".gguf", ".bin"))
    )


def node_errors(found: Mapping[str, NodeErrors], prompt: parsing.Prompt) -> dict[str, Any]:
    """ComfyUI's node errors by node and input, without server paths and tracebacks."""
    return {
        node_id: {
            "class_type": errors.class_type,
            "title": parsing.title_of(prompt, node_id),
            "errors": [
                {
                    "type": error.type,
                    "message": clean(error.message),
                    "details": clean(error.details),
                    "input": error.input_name,
                }
                for error in errors.errors
            ],
            "dependent_outputs": errors.dependent_outputs,
        }
        for node_id, errors in found.items()
    }


def dropped(
    found: Mapping[str, NodeErrors],
    prompt: parsing.Prompt,
    *,
    near: Callable[[list[str]], dict[str, list[str]]],
) -> list[str]:
    """A sentence for each mistake for which ComfyUI left outputs out, though it ran the rest. `near` gives
    names that are like those of missing models."""
    sentences = []
    lacks: list[str] = []
    for errors in found.values():
        outputs = ", ".join(f"{id_} ({parsing.title_of(prompt, id_)})" for id_ in errors.dependent_outputs)
        for error in errors.errors:
            sentence, missing = _input_fault(errors, error, prompt)
            sentences.append(f"Left out output {outputs}: {sentence}" if outputs else sentence)
            lacks += [missing] if missing else []
    return sentences + near_in_name(near(lacks))


def near_in_name(found: Mapping[str, list[str]]) -> list[str]:
    return [f"near '{name}' in name: {', '.join(names)}" for name, names in found.items()]


# -- errors in mid-run -----------------------------------------------------------------------------------
def of_error(error: ExecutionError, prompt: parsing.Prompt) -> Fault:
    """A node raised."""
    message = clean(error.message)
    out_of_memory = is_out_of_memory(error)
    said = what_ran_out(error) if out_of_memory else message
    return Fault(
        error=f"Node {error.node_id} ({parsing.title_of(prompt, error.node_id)}) failed: {said}",
        details={
            "type": error.exception_type,
            "message": message,
            "node_id": error.node_id,
            "class_type": error.node_type,
            "node_errors": {},
        },
        out_of_memory=out_of_memory,
    )


def is_out_of_memory(error: ExecutionError) -> bool:
    return _is_out_of_ram(error) or _is_out_of_gpu_memory(error)


def what_ran_out(error: ExecutionError) -> str:
    """For an error that `is_out_of_memory`."""
    if _is_out_of_ram(error):
        return "its machine ran out of memory (RAM, not the GPU's)"
    return "the GPU ran out of memory"


def _is_out_of_ram(error: ExecutionError) -> bool:
    return error.exception_type.endswith("MemoryError") or "DefaultCPUAllocator" in error.message


def _is_out_of_gpu_memory(error: ExecutionError) -> bool:
    return "OutOfMemory" in error.exception_type or any(
        said in error.message for said in ("Allocation on device", "CUDA out of memory", "HIP out of memory")
    )


def is_disk_full(error: ExecutionError) -> bool:
    """Its ComfyUI's disk has no room: no fault of the workflow's."""
    return "No space left on device" in error.message or "not enough space on the disk" in error.message


def clean(text: str) -> str:
    """Without server paths, one line, not too long."""
    return PATHS.sub("…", " ".join(text.split()))[:LONGEST]
