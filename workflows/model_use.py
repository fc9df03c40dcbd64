"""What executions tell the registry of models, and ask it."""

from __future__ import annotations

import dataclasses
import logging

from comfyserve import database
from models_registry import usage

from . import graphs
from .faults import Fault

logger = logging.getLogger(__name__)


def note(prompt: graphs.Prompt) -> None:
    """The models of this prompt are in use now. A figure for housekeeping: nothing waits for it."""
    try:
        with database.step():
            usage.used((use.type, use.name) for use in graphs.models_of(prompt))
    except database.AWAY as exc:
        logger.warning("the use of models was not noted: %s", exc)


def with_suggestions(fault: Fault, prompt: graphs.Prompt) -> Fault:
    """The fault, and for each model that is missing those that may have been meant; as it was if none is."""
    types = {use.name: use.type for use in graphs.models_of(prompt)}
    missing = [name for name in fault.lacks if name in types]
    if not missing:
        return fault
    try:
        with database.step():
            near = {name: usage.near(name=name, type_=types[name]) for name in missing}
    except database.AWAY:
        return fault
    sentences = [f"near '{name}' in name: {', '.join(found)}" for name, found in near.items() if found]
    return dataclasses.replace(
        fault,
        error="; ".join([fault.error, *sentences]),
        details=fault.details | {"suggestions": {name: found for name, found in near.items() if found}},
    )
