"""Deletes our leftovers from ComfyUI's folders and history once they are unneeded. Requires our bridge.

Files of an execution are deleted when its outputs are stored. The sweep deletes the rest: leftovers of killed
workers and cancelled runs, and placed inputs unused for COMFYUI_INPUTS_KEPT_SECONDS.
"""

from __future__ import annotations

import logging
import threading
from uuid import UUID

from django.conf import settings

from comfyserve.db import connections
from comfyui import History, Unreachable
from comfyui.bridge import Bridge, NoBridge
from comfyui.types import OutputFile
from workflows.models import ALIVE, Execution
from workflows.queue.claims import Claim

from .backend import Backend

logger = logging.getLogger(__name__)

# Minimum age at which leftovers of unknown executions (deleted, or of another installation) are removed.
UNKNOWN_SECONDS = 24 * 3600.0


# -- after executions ------------------------------------------------------------------------------------
class Leftovers:
    """What executions left that have ended, to be deleted for several of them at once.

    `add` may be called from any thread, once everything is stored and recorded.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._runs: list[tuple[Claim, History]] = []
        self._lock = threading.Lock()

    def add(self, claim: Claim, history: History) -> None:
        with self._lock:
            self._runs.append((claim, history))

    def delete(self) -> None:
        """Delete it. The sweep retries what fails."""
        with self._lock:
            runs, self._runs = self._runs, []
        if not runs:
            return
        client = self._backend.client
        try:
            client.delete_history(*[str(claim.execution_id) for claim, _ in runs])
            if self._backend.has_bridge:
                bridge = Bridge(client)
                bridge.delete(marks=[mark for run in runs for mark in _marks(*run)])
                for run in runs:
                    self._delete_elsewhere(bridge, *run)
        except (Unreachable, NoBridge) as exc:
            ids = ", ".join(str(claim.execution_id) for claim, _ in runs)
            logger.info("what %s left in ComfyUI is not deleted: %s", ids, exc)

    def _delete_elsewhere(self, bridge: Bridge, claim: Claim, history: History) -> None:
        """Files outside the folders of the execution that its output nodes reported and this run wrote: other
        nodes may report a file of an earlier run that ComfyUI had cached, and a later run may have written
        one of the same name.
        """
        marks, own = _marks(claim, history), self._backend.output_nodes(claim.prompt)
        files = [file for file in history.files if file.node_id in own and _folder(file) not in marks]
        if files and history.started_ms is not None and history.ended_ms is not None:
            # ComfyUI's times are truncated to milliseconds, those of files are not.
            bridge.delete(files=files, since=history.started_ms / 1000, until=(history.ended_ms + 1) / 1000)


def _marks(claim: Claim, history: History) -> list[str]:
    """Its own mark, and that of an earlier attempt whose run it followed."""
    folders = {_folder(file) for file in history.files}
    own = {name for name in folders if name.removeprefix(f"{claim.execution_id}.").isdecimal()}
    return sorted({claim.mark} | own)


def _folder(file: OutputFile) -> str:
    """The first part of its path."""
    return file.subfolder.replace("\\", "/").partition("/")[0]


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
