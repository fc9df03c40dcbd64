"""The executions' interface to the model registry."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable

from comfyserve.db import connections
from models_registry import usage

from . import parsing
from .comfyui_errors import Fault, near_in_name

logger = logging.getLogger(__name__)


def note(prompt: parsing.Prompt) -> None:
    """Record that the models of this prompt are in use now. Best effort: only used for housekeeping."""
    try:
        with connections.step():
            usage.used((use.type, use.name) for use in parsing.models_of(prompt))
    except connections.UNAVAILABLE as exc:
        logger.warning("the use of models was not recorded: %s", exc)


def with_suggestions(fault: Fault, prompt: parsing.Prompt) -> Fault:
    """Add suggestions for each missing model to the fault; unchanged if there are none."""
    found = near(fault.lacks, prompt)
    if not found:
        return fault
    return dataclasses.replace(
        fault,
        error="; ".join([fault.error, *near_in_name(found)]),
        details=fault.details | {"suggestions": found},
    )


def embeddings(prompt: parsing.Prompt, *, worker: str) -> list[str] | None:
    """Names of the embeddings that the worker's ComfyUI has; None if the prompt uses none, or if unknown."""
    texts = (value for node in prompt.values() for value in node["inputs"].values() if isinstance(value, str))
    if not any("embedding:" in text.lower() for text in texts):
        return None
    try:
        with connections.step():
            return usage.embeddings_on(worker)
    except connections.UNAVAILABLE:
        return None


def near(missing: Iterable[str], prompt: parsing.Prompt) -> dict[str, list[str]]:
    """Similar available names for each missing model; models without any are left out."""
    types = {use.name: use.type for use in parsing.models_of(prompt)}
    try:
        with connections.step():
            found = {name: usage.near(name=name, type_=types[name]) for name in missing if name in types}
    except connections.UNAVAILABLE:
        return {}
    return {name: names for name, names in found.items() if names}
