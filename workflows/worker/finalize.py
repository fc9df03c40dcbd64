"""From the end of a run in ComfyUI to the terminal status: store the outputs, then one transaction."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Self

from comfyserve import outages
from comfyserve.db import connections
from comfyui import History, Unreachable
from comfyui.types import ExecutionError, OutputFile
from files import backend as file_storage
from files import converted, storing, thumbnails
from files.errors import BytesMissing, StorageUnavailable
from files.models import ConvertedFile, File
from workflows.graph import comfyui_errors
from workflows.models import FailureCause, Level, Output, Status
from workflows.queue import partner_keys, requeueing, state_machine
from workflows.queue.claims import Claim
from workflows.queue.execution_log import Line
from workflows.queue.state_machine import Outcome
from workflows.queue.transitions import Began

from . import output_collection, output_conversion
from .afterwards import Afterwards
from .attempt import RECORD_BEGIN_SECONDS, Ended
from .backend import Backend

logger = logging.getLogger(__name__)
Collected = tuple[list[Output], list[Line], int]  # see output_collection.collect

FIRST_DELAY, LONGEST_DELAY = 0.5, 15.0  # seconds between attempts to collect
GONE_WITH_OUTPUTS = "its ComfyUI became unavailable before its outputs were collected"
NO_OUTPUT = (
    "It ended without any output: none of its output nodes reported a file or a text to ComfyUI. "
    "Some custom nodes report saved files only if they show a preview; SaveImage always does"
)
GONE_AFTER = 600.0  # seconds that a ComfyUI with uncollected outputs may be unavailable
# Storage outages are retried until the execution's timeout, but for at least and at most this many seconds.
STORE_SECONDS, LONGEST_STORE_SECONDS = 600.0, 3600.0
STORE_TRIES = 5  # for outputs that fail while others are stored, or with an error that is not an outage


def conclude(
    claim: Claim, ended: Ended, *, backend: Backend, alive: Callable[[], bool], stop: threading.Event,
    recorded: Callable[[list[Output]], None],
) -> None:  # fmt: skip
    """Collect and store the outputs, then record the end. Outages of the storage or ComfyUI are retried for a
    limited time; the GPU keeps working meanwhile.

    `alive` is called during transfers and returns whether the claim is still wanted. `recorded` is called
    once the end is recorded with these outputs.

    Returns without recording anything if the claim is lost, or if `stop` is set first: then the next process
    of this backend finds the run finished in ComfyUI. Raises connections.UNAVAILABLE if `stop` is set.
    """
    history = ended.history
    if history.error is not None and _is_first_out_of_memory(claim, history.error):
        _free_and_try_again(claim, history.error, backend, stop=stop)
        return
    collecting = _Collecting(claim, history, backend=backend, alive=alive, stop=stop)
    try:
        with _LateBegin(claim, ended.began) as late:
            collected = collecting.collect()
            made, warned = _convert(claim, collected, alive=alive, stop=stop)
    except _CannotStore:
        outputs = collecting.stored_outputs()
        outcome = dataclasses.replace(_not_stored(ended, outputs), began=late.unrecorded)
        _record(claim, outcome, outputs=outputs, stop=stop)
        return
    if collected is None:
        return
    outputs, lines, left_out = collected
    outcome = outcome_of(claim, ended, outputs=outputs, lines=[*ended.lines, *lines, *warned])
    if left_out and outcome.status == Status.COMPLETED:
        outcome = _over_quota(outcome, left_out)
    outcome = dataclasses.replace(outcome, began=late.unrecorded, made=made)
    if _record(claim, outcome, outputs=outputs, stop=stop):
        recorded(outputs)


def _convert(
    claim: Claim, collected: Collected | None, *, alive: Callable[[], bool], stop: threading.Event
) -> tuple[output_conversion.Made, list[Line]]:
    return output_conversion.convert(claim, collected[0] if collected else [], alive=alive, stop=stop)


def _record(claim: Claim, outcome: Outcome, *, outputs: list[Output], stop: threading.Event) -> bool:
    """Record the end. False: the claim was lost, and the files stored for it were dropped.

    After an error they stay, as the end may have been recorded: the storage sweep finds what was not.
    """
    if connections.retry_until_available(lambda: state_machine.finish(claim, outcome), stop=stop):
        return True
    if not connections.retry_until_available(lambda: state_machine.has_outputs(claim, outputs), stop=stop):
        _drop(outputs, outcome.made)
    return False


_late_begins = Afterwards(delay=RECORD_BEGIN_SECONDS)


class _LateBegin:
    """Records the start of an execution if collecting its outputs takes longer than RECORD_BEGIN_SECONDS.

    with _LateBegin(claim, ended.began) as late:
        ...  # collect
    late.unrecorded  # the start that the end still has to record
    """

    def __init__(self, claim: Claim, began: Began | None) -> None:
        self.unrecorded = began
        self._claim = claim
        self._over = False
        self._recording = threading.Lock()

    def __enter__(self) -> Self:
        if self.unrecorded is not None:
            _late_begins.add(self._record)
        return self

    def __exit__(self, *_: object) -> None:
        with self._recording:
            self._over = True

    def _record(self) -> None:
        with self._recording:
            began = self.unrecorded
            if self._over or began is None:
                return
            try:
                with connections.step():
                    state_machine.begin(
                        self._claim, total_steps=began.total_steps, seconds_ago=began.seconds_ago
                    )
            except connections.UNAVAILABLE as exc:
                logger.warning("start of %s not written: %s", self._claim.execution_id, exc)
                return  # recorded together with the end
            self.unrecorded = None


def outcome_of(claim: Claim, ended: Ended, *, outputs: list[Output], lines: list[Line]) -> Outcome:
    history, warnings = ended.history, ended.warnings
    # Missing outputs are reported in the result, not only in the log.
    missing = [line.message for line in lines if line.level == Level.WARNING]
    warnings = list(dict.fromkeys([*warnings, *missing]))
    if history.error is None and not outputs and not warnings:
        warnings.append(NO_OUTPUT)
    seconds = _gpu_seconds(history)
    if history.error is None:
        return Outcome(Status.COMPLETED, outputs=outputs, lines=lines, warnings=warnings, gpu_seconds=seconds)
    error = partner_keys.redact(history.error, claim.extras)
    fault = comfyui_errors.of_error(error, claim.prompt)
    logger.info(
        "execution %s failed in node %s:\n%s", claim.execution_id, error.node_id, "".join(error.traceback)
    )
    named = Line(fault.error, Level.ERROR, error.node_id)
    return Outcome(
        Status.FAILED,
        error=fault.error,
        error_details=fault.details,
        failure_cause=fault.cause,
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
    reason = f"{ran_out}; all models were unloaded, and the execution is tried once more"
    connections.retry_until_available(lambda: requeueing.requeue(claim, reason=reason, fault=True), stop=stop)


class _Collecting:
    """Stores the outputs of one run. Retries for a bounded time; each try continues where the last one
    stopped. Drops what was stored if the run ends without it.
    """

    def __init__(
        self, claim: Claim, history: History, *, backend: Backend, alive: Callable[[], bool],
        stop: threading.Event,
    ) -> None:  # fmt: skip
        self._claim, self._history, self._backend = claim, history, backend
        self._alive, self._stop = alive, stop
        self._began = time.monotonic()
        self._stored: dict[OutputFile, File] = {}
        self._failures: Counter[OutputFile] = Counter()
        self._own_failures = 0  # failures that a storage outage does not explain

    def collect(self) -> Collected | None:
        """Return what could be collected. None: the claim is lost, requeued, or left to the next process.

        Raises _CannotStore when giving up.
        """
        backoff = outages.Backoff(FIRST_DELAY, LONGEST_DELAY)
        while self._alive():  # False: it was cancelled, or another worker has it
            try:
                collected = output_collection.collect(
                    self._claim, self._history, backend=self._backend,
                    alive=self._alive, stored=self._stored, failures=self._failures,
                )  # fmt: skip
                self._backend.stored_at = time.monotonic()
                return collected
            except Unreachable as exc:
                if self._comfyui_is_gone(exc):
                    break
            except Exception as exc:  # noqa: BLE001  (logged and counted there)
                self._judge(exc)
            if self._stop.wait(backoff.next()):
                break
        self.drop()
        return None

    def drop(self) -> None:
        for file in self._stored.values():
            storing.drop(file)
        self._stored.clear()

    def _comfyui_is_gone(self, exc: Unreachable) -> bool:
        """Whether it was unavailable for so long that the run was requeued."""
        logger.warning("outputs of %s not collected: %s", self._claim.execution_id, exc)
        if time.monotonic() - self._began < GONE_AFTER:
            return False
        connections.retry_until_available(
            lambda: requeueing.requeue(self._claim, reason=GONE_WITH_OUTPUTS), stop=self._stop
        )
        return True

    def _judge(self, exc: Exception) -> None:
        """Log and count a failure; raise _CannotStore if retrying is pointless."""
        unavailable = isinstance(exc, StorageUnavailable | OSError)
        if unavailable:
            logger.warning("outputs of %s not stored: %s", self._claim.execution_id, exc)
        else:
            logger.error(
                "outputs of %s not stored", self._claim.execution_id, exc_info=exc,
                extra={"action": "output_not_stored"},
            )  # fmt: skip
        # If other runs could store theirs meanwhile, and the storage answers now, the outputs are to blame.
        if not unavailable or (self._backend.stored_at > self._began and file_storage.responds()):
            self._own_failures += 1
        waited = time.monotonic() - self._began
        if self._own_failures >= STORE_TRIES or waited >= self._retry_seconds():
            raise _CannotStore from exc

    def _retry_seconds(self) -> float:
        """Seconds: the rest of the execution's timeout, within bounds that suit an outage."""
        left = self._claim.timeout_minutes * 60 - (_gpu_seconds(self._history) or 0.0)
        return min(max(STORE_SECONDS, left), LONGEST_STORE_SECONDS)

    def stored_outputs(self) -> list[Output]:
        """Outputs for the files that were stored."""
        return [
            output_collection.output_of(self._claim, written, file) for written, file in self._stored.items()
        ]


class _CannotStore(Exception):
    """The outputs could not be stored, after too many tries or too long a time."""


def _over_quota(outcome: Outcome, left_out: int) -> Outcome:
    """Keep the outputs that fit. The others are lost, so the execution fails."""
    files = "1 output" if left_out == 1 else f"{left_out} outputs"
    error = (
        f"The workflow ran, but your storage quota has no space for {files}; delete files and run it again"
    )
    details = {"type": "storage_quota_exceeded", "outputs_left_out": left_out, "node_errors": {}}
    return dataclasses.replace(
        outcome,
        status=Status.FAILED,
        error=error,
        error_details=details,
        failure_cause=FailureCause.OUTPUTS,
    )


def _not_stored(ended: Ended, outputs: list[Output]) -> Outcome:
    error = "The workflow ran, but its outputs could not be stored"
    details = {"type": "outputs_not_stored", "node_errors": {}}
    return Outcome(
        Status.FAILED, error=error, error_details=details, failure_cause=FailureCause.OUTPUTS,
        outputs=outputs, lines=ended.lines, warnings=ended.warnings,
        gpu_seconds=_gpu_seconds(ended.history),
    )  # fmt: skip


def make_thumbnails(outputs: list[Output]) -> None:
    """Make thumbnails ahead of the first request; a request that comes earlier makes its own."""
    for output in outputs:
        try:
            if output.file is not None:
                with connections.step():
                    thumbnails.key_of(output.file)
        except (BytesMissing, StorageUnavailable, *connections.UNAVAILABLE) as exc:
            logger.warning("no thumbnail of %s was created: %s", output.file_id, exc)


def _drop(outputs: list[Output], made: Sequence[tuple[Output, ConvertedFile]]) -> None:
    """Drop the files that a lost claim had stored: nothing refers to them."""
    for _, each in made:
        converted.drop(each)
    for output in outputs:
        if output.file is not None:
            storing.drop(output.file)
