"""Deletes our leftovers from ComfyUI's folders and history once they are unneeded. Requires our bridge.

Files of an execution are deleted when its outputs are stored. The sweep deletes the rest: leftovers of killed
workers and cancelled runs, and placed inputs unused for COMFYUI_INPUTS_KEPT_SECONDS.
"""

from __future__ import annotations

import logging
from uuid import UUID

from django.conf import settings

from comfyserve.db import connections
from comfyui import History, Unreachable
from comfyui.bridge import Bridge, NoBridge
from workflows.models import ALIVE, Execution
from workflows.queue.claims import Claim

from .backend import Backend

logger = logging.getLogger(__name__)

# Minimum age at which leftovers of unknown executions (deleted, or of another installation) are removed.
UNKNOWN_SECONDS = 24 * 3600.0


# -- after an execution ----------------------------------------------------------------------------------
def delete_leftovers(claim: Claim, history: History, backend: Backend) -> None:
    """Delete what this run left, after everything is stored and recorded. The sweep retries what fails."""
    try:
        backend.client.delete_history(str(claim.execution_id))
        if backend.has_bridge:
            # Other nodes may report a file of an earlier run that ComfyUI had cached.
            own = backend.output_nodes(claim.prompt)
            Bridge(backend.client).delete(
                marks=_marks(claim, history),
                files=[file for file in history.files if file.node_id in own],
                since=None if history.started_ms is None else history.started_ms / 1000,
            )
    except (Unreachable, NoBridge) as exc:
        logger.info("what %s left in ComfyUI is not deleted: %s", claim.execution_id, exc)


def _marks(claim: Claim, history: History) -> list[str]:
    """Its own mark, and that of an earlier attempt whose run it followed."""
    folders = {file.subfolder.replace("\\", "/").partition("/")[0] for file in history.files}
    own = {name for name in folders if name.removeprefix(f"{claim.execution_id}.").isdecimal()}
    return sorted({claim.mark} | own)


# -- the sweep -------------------------------------------------------------------------------------------
def sweep(backend: Backend) -> None:
    """Delete what is no longer needed. Raises Unreachable, NoBridge, and database errors.

    Only for the process that serves the backend. Leftovers of live executions are kept, whatever the attempt,
    since their runs may be rejoined or followed.
    """
    bridge = Bridge(backend.client)
    found = bridge.leftovers()
    marks = _deletable(found.marks)
    if marks:
        files = bridge.delete(marks=marks)
        logger.info("backend %s: deleted %d files of %d runs", backend.name, files, len(marks))
    for prompt_id in _deletable(found.history):
        backend.client.delete_history(prompt_id)
    kept = settings.COMFYUI_INPUTS_KEPT_SECONDS
    with backend.placed.unneeded({name for name, age in found.inputs.items() if age >= kept}) as inputs:
        if inputs:
            files = bridge.delete(inputs=inputs)
            logger.info("backend %s: deleted %d inputs", backend.name, files)


def _deletable(ages: dict[str, float]) -> list[str]:
    """The marks or prompt ids whose execution has ended, and old ones of unknown executions."""
    ids = {name: id_ for name in ages if (id_ := _execution_of(name)) is not None}
    if not ids:
        return []
    with connections.step():
        lives = {
            id_: status in ALIVE
            for id_, status in Execution.objects.filter(id__in=ids.values()).values_list("id", "status")
        }
    return [name for name, id_ in ids.items() if not lives.get(id_, ages[name] < UNKNOWN_SECONDS)]


def _execution_of(name: str) -> UUID | None:
    try:
        return UUID(name.partition(".")[0])
    except ValueError:
        return None
