"""Maps ComfyUI's rejections and errors to a failure cause and a readable message.

ComfyUI's own texts contain server paths and sometimes the whole graph. Users get the type, a message without
paths, the node and its class; tracebacks stay in the worker's log.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from comfyui.errors import Refused
from comfyui.types import ExecutionError, InputError, NodeErrors
from workflows.models import FailureCause

from . import parsing, refusals
from .node_info import Classes
from .refusals import clean

MAX_NODES = 100  # nodes listed in `node_errors`
MAX_SENTENCES = 20  # per error message
LONGEST_ERROR = 2 * refusals.WHOLE  # characters
LONGEST_DETAIL = 500  # characters of ComfyUI's text, if our own sentence is complete


@dataclass(frozen=True)
class Fault:
    """Why a workflow failed."""

    error: str  # human-readable
    details: dict[str, Any]  # machine-readable
    lacks: list[str] = field(default_factory=list)  # models or node classes missing in this ComfyUI
    cause: FailureCause = field(kw_only=True)


# -- rejections ----------------------------------------------------------------------------------------
def of_refusal(refused: Refused, prompt: parsing.Prompt, classes: Classes) -> Fault:
    """Why ComfyUI rejected the whole prompt. `classes` are the node classes it has."""
    found = [
        refusals.explain(errors, error, prompt, classes)
        for errors in refused.node_errors.values()
        for error in errors.errors
    ]
    whole = [] if found else list(_whole(refused, prompt, classes))
    sentences = [each.sentence for each in found] + [sentence for sentence, _ in whole]
    return Fault(
        error=_joined(sentences),
        details={
            "type": refused.type,
            "message": clean(refused.message, refusals.WHOLE),
            "details": clean(refused.details, refusals.WHOLE),
            "node_errors": node_errors(refused.node_errors, prompt, classes),
        },
        cause=FailureCause.REFUSED,
        lacks=list(dict.fromkeys(filter(None, [each.lacks for each in found] + [name for _, name in whole]))),
    )


def _joined(sentences: list[str]) -> str:
    """Join the distinct sentences; beyond MAX_SENTENCES, only state how many more there are."""
    distinct = list(dict.fromkeys(sentences))
    more = f"; and {len(distinct) - MAX_SENTENCES} more" if len(distinct) > MAX_SENTENCES else ""
    return clean("; ".join(distinct[:MAX_SENTENCES]), LONGEST_ERROR) + more


def _whole(refused: Refused, prompt: parsing.Prompt, classes: Classes) -> Iterator[tuple[str, str | None]]:
    """Yield (sentence, missing class or None) for a rejection that blames no node."""
    match refused.type:
        case "prompt_no_outputs":
            message = (
                "The workflow has no output node: add one that saves or shows something, such as SaveImage"
            )
            yield message, None
            return
        case "invalid_prompt" | "missing_node_type":
            missing = list(refusals.unknown_classes(prompt, classes, _blamed(refused, prompt)))
            yield from missing
            if missing:
                return
    details = f" ({clean(refused.details, refusals.WHOLE)})" if refused.details else ""
    yield f"ComfyUI rejected the workflow: {clean(refused.message, refusals.WHOLE)}{details}", None


def _blamed(refused: Refused, prompt: parsing.Prompt) -> str | None:
    """The node named by ComfyUI in "Node ID '#7'"; None if there is none."""
    found = re.search(r"#([^']+)'", refused.details)
    return found.group(1) if found and found.group(1) in prompt else None


def node_errors(found: Mapping[str, NodeErrors], prompt: parsing.Prompt, classes: Classes) -> dict[str, Any]:
    """ComfyUI's node errors by node, without paths and tracebacks, each with our explanation."""
    return {
        node_id: {
            "class_type": errors.class_type,
            "title": parsing.title_of(prompt, node_id),
            "errors": [_node_error(errors, error, prompt, classes) for error in errors.errors],
            "dependent_outputs": errors.dependent_outputs,
        }
        for node_id, errors in islice(found.items(), MAX_NODES)
    }


def _node_error(
    errors: NodeErrors, error: InputError, prompt: parsing.Prompt, classes: Classes
) -> dict[str, Any]:
    explained = refusals.explain(errors, error, prompt, classes)
    longest = LONGEST_DETAIL if error.type in refusals.SENTENCES else refusals.WHOLE
    return {
        "type": error.type,
        "message": clean(error.message, longest),
        "details": clean(error.details, longest),
        "input": error.input_name,
        "explanation": explained.sentence,
        "value": explained.value,
        "allowed": explained.allowed,
        "near": list(explained.near),
    }


def dropped(
    found: Mapping[str, NodeErrors],
    prompt: parsing.Prompt,
    classes: Classes,
    *,
    near: Callable[[list[str]], dict[str, list[str]]],
) -> list[str]:
    """One sentence per error because of which ComfyUI skipped outputs while running the rest. `near` returns
    similar names for missing models.
    """
    sentences = []
    lacks: list[str] = []
    for errors in found.values():
        outputs = ", ".join(f"{id_} ({parsing.title_of(prompt, id_)})" for id_ in errors.dependent_outputs)
        for error in errors.errors:
            explained = refusals.explain(errors, error, prompt, classes)
            sentences.append(
                f"Left out output {outputs}: {explained.sentence}" if outputs else explained.sentence
            )
            lacks += [explained.lacks] if explained.lacks else []
    return sentences + near_in_name(near(lacks))


def near_in_name(found: Mapping[str, list[str]]) -> list[str]:
    return [f"near '{name}' in name: {', '.join(names)}" for name, names in found.items()]


# -- errors during a run ---------------------------------------------------------------------------------
def of_error(error: ExecutionError, prompt: parsing.Prompt) -> Fault:
    """The fault for a node that raised an exception."""
    message = clean(error.message, refusals.WHOLE)
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
        cause=FailureCause.OUT_OF_MEMORY if out_of_memory else FailureCause.NODE,
    )


def is_out_of_memory(error: ExecutionError) -> bool:
    return _is_out_of_ram(error) or _is_out_of_gpu_memory(error)


def what_ran_out(error: ExecutionError) -> str:
    """Describe which memory ran out; for errors that satisfy `is_out_of_memory`."""
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
    """ComfyUI's disk is full, which is not the workflow's fault."""
    return "No space left on device" in error.message or "not enough space on the disk" in error.message
