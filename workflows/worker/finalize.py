"""From ComfyUI's end of a run to the execution's: outputs into storage, then one transaction."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from comfyserve.db import connections
from comfyui import History, Unreachable
from comfyui.types import ExecutionError
from files import storing, thumbnails
from files.errors import BytesMissing, StorageUnavailable
from workflows.graph import comfyui_errors
from workflows.models import Level, Output, Status
from workflows.queue import state_machine
from workflows.queue.claims import Claim
from workflows.queue.execution_log import Line
from workflows.queue.state_machine import Outcome

from . import cleanup, output_collection
from .backend import Backend
from .runner import Ended

logger = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 0.5, 15.0  # seconds between tries to collect
GONE_WITH_OUTPUTS = "its ComfyUI went away with the outputs"
GONE_AFTER = 600.0  # seconds that a ComfyUI may be away with outputs on its disk


def conclude(
    claim: Claim, ended: Ended, *, backend: Backend, alive: Callable[[], bool], stop: threading.Event
) -> None:
    """Collect and record. Storage or ComfyUI away: tried again; the GPU works on meanwhile.

    `alive` is called while bytes flow, and says whether the claim is still wanted.
    Returns with nothing recorded when the claim is lost, or when `stop` is set before it could be done: the
    next worker of this backend finds it finished in ComfyUI. Raises database.UNAVAILABLE, when `stop` is set.
    """
    history = ended.history
    if history.error is not None and _is_first_out_of_memory(claim, history.error):
        _free_and_try_again(claim, history.error, backend, stop=stop)
        return
    collected = _collect(claim, history, backend=backend, alive=alive, stop=stop)
    if collected is None:
        return
    outputs, lines = collected
    outcome = outcome_of(claim, ended, outputs=outputs, lines=[*ended.lines, *lines])
    if connections.retry_until_available(lambda: state_machine.finish(claim, outcome), stop=stop):
        cleanup.forget(claim, history, backend)
        _make_thumbnails(outputs)
    elif not connections.retry_until_available(lambda: state_machine.has_outputs(claim, outputs), stop=stop):
        _drop(outputs)


def outcome_of(claim: Claim, ended: Ended, *, outputs: list[Output], lines: list[Line]) -> Outcome:
    history, warnings = ended.history, ended.warnings
    seconds = _gpu_seconds(history)
    if history.error is None:
        return Outcome(Status.COMPLETED, outputs=outputs, lines=lines, warnings=warnings, gpu_seconds=seconds)
    fault = comfyui_errors.of_error(history.error, claim.prompt)
    logger.info(
        "execution %s failed in node %s:\n%s",
        claim.execution_id,
        history.error.node_id,
        "".join(history.error.traceback),
    )
    named = Line(fault.error, Level.ERROR, history.error.node_id)
    return Outcome(
        Status.FAILED,
        error=fault.error,
        error_details=fault.details,
        outputs=outputs,
        lines=[*lines, named],
        warnings=warnings,
        gpu_seconds=seconds,
    )


def _gpu_seconds(history: History) -> float | None:
    if history.started_ms is None or history.ended_ms is None:
        return None
    return max(0.0, (history.ended_ms - history.started_ms) / 1000)


def _is_first_out_of_memory(claim: Claim, error: ExecutionError) -> bool:
    return comfyui_errors.is_out_of_memory(error) and claim.faults == 0


def _free_and_try_again(
    claim: Claim, error: ExecutionError, backend: Backend, *, stop: threading.Event
) -> None:
    try:
        backend.client.free(unload_models=True, free_memory=True)
        backend.client.delete_history(str(claim.execution_id))
    except Unreachable as exc:
        logger.warning("memory of backend %s not freed: %s", backend.name, exc)
    ran_out = comfyui_errors.what_ran_out(error)
    reason = f"{ran_out}; all models were unloaded and it is tried once more"
    connections.retry_until_available(
        lambda: state_machine.requeue(claim, reason=reason, fault=True), stop=stop
    )


def _collect(
    claim: Claim, history: History, *, backend: Backend, alive: Callable[[], bool], stop: threading.Event
) -> tuple[list[Output], list[Line]] | None:
    delay, since = FIRST_DELAY, time.monotonic()
    while True:
        try:
            if not alive():
                return None  # it was cancelled, or somebody else has it: no collector waits for that
            return output_collection.collect(claim, history, client=backend.client, alive=alive)
        except Unreachable as exc:
            logger.warning("outputs of %s not collected: %s", claim.execution_id, exc)
            if time.monotonic() - since > GONE_AFTER:
                connections.retry_until_available(
                    lambda: state_machine.requeue(claim, reason=GONE_WITH_OUTPUTS), stop=stop
                )
                return None
        except Exception:  # the storage raises whatever it likes; all of it means "not now"
            logger.exception("outputs of %s not stored", claim.execution_id)
        if stop.wait(delay):
            return None
        delay = min(delay * 2, LONGEST_DELAY)


def _make_thumbnails(outputs: list[Output]) -> None:
    """Now that the execution has ended, and before somebody looks. Who asks for one meanwhile makes it."""
    for output in outputs:
        try:
            if output.file is not None:
                with connections.step():
                    thumbnails.key_of(output.file)
        except (BytesMissing, StorageUnavailable, *connections.UNAVAILABLE) as exc:
            logger.warning("no thumbnail of %s was made: %s", output.file_id, exc)


def _drop(outputs: list[Output]) -> None:
    """What a lost claim had stored: nobody will ever see it."""
    for output in outputs:
        if output.file is not None:
            storing.drop(output.file)
