"""One attempt at an execution on one ComfyUI: its state and the ways it ends. `runner` has the main loop."""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.conf import settings

from comfyserve import outages
from comfyserve.db import connections
from comfyui import History, Recording, Session, Subscription, Unreachable
from workflows.graph import model_usage
from workflows.graph.comfyui_errors import Fault
from workflows.models import FailureCause, Status
from workflows.queue import claims, clock, requeueing, state_machine
from workflows.queue.claims import Claim
from workflows.queue.execution_log import Line
from workflows.queue.state_machine import Outcome
from workflows.queue.transitions import Began

from . import celery_tasks
from .backend import Backend
from .message_relay import MessageRelay
from .previews import Previews
from .progress import Progress

logger = logging.getLogger(__name__)

T = TypeVar("T")
RECORD_BEGIN_SECONDS = 0.04  # a shorter run is written only once, at its end
WRITE_SECONDS = 0.5  # minimum interval between progress writes
REPEAT_SECONDS = 3.0  # unchanged progress is rewritten this often: a write shows whether the claim is lost
FIRST_HOLD, LONGEST_HOLD = 3.0, clock.LONGEST_HOLD  # seconds of backoff after a system fault
LEAVE_SECONDS = 60.0  # how long a run is kept whose claim is lost and not claimed again


class Gone(enum.Enum):
    """How an attempt ended with the slot free and nothing to collect."""

    REQUEUED = "back"  # requeued
    LOST = "lost"  # ended by another process, or claimed by another worker
    LEFT_IN_COMFYUI = "left"  # still in ComfyUI, for the next process that serves this backend
    FAILED = "failed"  # and the failure is recorded


@dataclass(frozen=True)
class Ended:
    """ComfyUI has finished the run; its outputs are still to be collected."""

    history: History
    lines: list[Line] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # parts of the workflow that ComfyUI dropped
    began: Began | None = None  # set if the row does not record the start yet


class NoLongerWanted(Exception):
    """Raised while inputs are placed: the claim is lost, or the execution is to be returned to the queue."""


class Attempt:
    """State shared by the parts of a run: the start, progress writes, and the ways it can end.

    `abandon`, `give_back` and `stop` may be called from any thread, everything else only from the slot's.
    """

    def __init__(self, claim: Claim, backend: Backend) -> None:
        self.claim = claim
        self.begun = False
        self.over = False
        self.alive_at = time.monotonic()
        self._backend = backend
        self._client = backend.client
        self._id = str(claim.execution_id)
        targets = claim.extras.get("partial_execution_targets")
        outputs = backend.output_nodes(claim.prompt)
        expected = outputs.intersection(targets) if targets else outputs
        self._progress = Progress(claim.prompt, expected)
        self._recording = Recording(self._id, output_nodes=expected)
        self._previews = Previews(claim.execution_id)
        self._relay = MessageRelay(claim)
        self._subscription: Subscription | None = None
        self._abandoned = threading.Event()
        self._requeue_wanted = threading.Event()
        self._requeue_reason = ""
        self._overtaken = False
        self._stop_at: float | None = None
        self._deadline: float | None = None  # of the run, from timeout_minutes
        self._progress_checked_at = 0.0  # when progress was last checked for changes
        self._stored_progress: dict[str, Any] | None = None  # the progress stored in the row
        self._progress_stored_at = 0.0
        self._last_event_at = time.monotonic()
        self._unreachable_since: float | None = None  # since when ComfyUI does not respond
        self._queued_since = time.monotonic()
        self._polled_without_event = False
        self._poster_session: Session | None = (
            None  # receives the events for the process that posted the prompt
        )
        self._lines: list[Line] = []
        self._warnings: list[str] = []
        self._began: Began | None = None  # until the row records it
        self._status_due: float | None = None  # the status message of our submission is due by then
        self._posted_at = 0.0
        self._next_in_queue = False  # ComfyUI's queue was empty when it was posted

    # -- called from other threads ---------------------------------------------------------------------
    def abandon(self) -> None:
        """The claim is lost, or the execution was ended by another process."""
        self._abandoned.set()
        self._wake()

    def give_back(self, *, reason: str, overtaken: bool = False) -> None:
        """Requeue this execution unless it has started. `overtaken`: another user's goes first."""
        self._requeue_reason, self._overtaken = reason, overtaken
        self._requeue_wanted.set()
        self._wake()

    def stop(self, *, at: float) -> None:
        """The worker is stopping: requeue it if it has not started, else it may run until monotonic `at`."""
        self._stop_at = at
        self._wake()

    def _wake(self) -> None:
        if self._subscription is not None:
            self._subscription.wake()

    # -- start of the run ------------------------------------------------------------------------------
    def _begin(self) -> bool:
        """ComfyUI has started it. False: the claim is lost."""
        if self.begun:
            return True
        self._began = Began(time.monotonic(), self._progress.total_steps)
        self._mark_begun()
        return not self.claim.webhook or self._record_begin(now=True)

    def _record_begin(self, *, now: bool = False) -> bool:
        """Record the start, with a short delay: most short runs end first and need only one write.

        `now`: record at once, as for a webhook that expects it. False: the claim is lost.
        """
        began = self._began
        if began is None or not (now or began.seconds_ago >= RECORD_BEGIN_SECONDS):
            return True
        self._began = None
        steps, ago = began.total_steps, began.seconds_ago
        return self._retry_until_available(
            lambda: state_machine.begin(self.claim, total_steps=steps, seconds_ago=ago)
        )

    def _mark_begun(self) -> None:
        self.begun = True
        celery_tasks.begin(self.claim)
        self._progress_checked_at = time.monotonic()
        self._deadline = time.monotonic() + self.claim.timeout_minutes * 60 - self.claim.elapsed
        model_usage.note(self.claim.prompt)

    def _may_have_crashed_comfyui(self) -> bool:
        """Whether it was running when its ComfyUI died; a crash may come before the start event is sent.

        Not if ComfyUI died during another execution's upload: see `fatal_uploads`.
        """
        if self._backend.fatal_uploads.killed_since(self._posted_at):
            return False
        return self.begun or (self._next_in_queue and self._begin())

    # -- ending the attempt ----------------------------------------------------------------------------
    def _requeue_after_fault(self, reason: str, cause: object, *, pause: bool = False) -> Gone:
        """Requeue after a system fault; with `pause`, one that would hit other executions too. The cause is
        only logged, for operators: it contains host names.
        """
        logger.warning("execution %s is requeued: %s: %s", self._id, reason, cause)
        self._backend.record_fault(self._id, pause=pause)
        return self._requeue(reason, hold=True)

    def _timed_out(self) -> Gone:
        minutes = self.claim.timeout_minutes
        fault = Fault(
            f"Timed out: it ran longer than {minutes} minute{'s' if minutes != 1 else ''}",
            {"type": "timeout", "timeout_minutes": minutes, "node_errors": {}},
            cause=FailureCause.TIMEOUT,
        )
        return self._cancel_in_comfyui() if self._record_failure(fault) else self._release_lost_claim()

    def _fail(self, fault: Fault) -> Gone:
        self._record_failure(fault)
        return Gone.FAILED

    def _record_failure(self, fault: Fault) -> bool:
        """False: the claim was already lost."""
        outcome = Outcome(
            Status.FAILED,
            error=fault.error,
            error_details=fault.details,
            failure_cause=fault.cause,
            lines=self._lines + self._progress.take_lines(),
            gpu_seconds=self.run_seconds,
        )
        return self._retry_until_available(lambda: state_machine.finish(self.claim, outcome))

    @property
    def run_seconds(self) -> float:
        """How long it has been running in ComfyUI; 0 if it has not started."""
        if self._deadline is None:
            return 0.0
        return max(0.0, time.monotonic() - (self._deadline - self.claim.timeout_minutes * 60))

    def _requeue(
        self, reason: str, *, fault: bool = False, exclude: bool = False, hold: bool = False
    ) -> Gone:
        self._record_begin(now=True)  # so that the requeue counts as one of a running execution
        self._retry_until_available(
            lambda: requeueing.requeue(
                self.claim,
                reason=reason,
                fault=fault,
                exclude=exclude,
                hold_seconds=self._backoff() if hold else None,
                overtaken=self._overtaken,
            )
        )
        return Gone.REQUEUED

    def _backoff(self) -> float:
        """Seconds; doubles with each failed try."""
        return min(FIRST_HOLD * 2.0 ** min(self.claim.tries, 10), LONGEST_HOLD)

    def _why_returned(self, reason: str = "") -> str:
        """`reason`, by default that of `give_back`, unless the worker is stopping."""
        if self._stop_at is not None:
            return "its worker is shutting down"
        return reason or self._requeue_reason

    def _try_to_give_back(self, reason: str = "", *, hold: bool = False) -> Gone | None:
        """Remove it from ComfyUI's queue, unless it has just started there. None: keep following it."""
        reason = self._why_returned(reason)
        try:
            self._client.delete_queued(self._id)
            if self._client.whereabouts(self._id) != "unknown":
                return None
        except Unreachable:
            return Gone.LEFT_IN_COMFYUI if self._stop_at is not None else None
        return self._requeue(reason, hold=hold)

    def _release_lost_claim(self) -> Gone:
        """The claim is lost. Cancel the prompt in ComfyUI only if nothing else needs it there.

        Ended: cancel it. Claimed by another backend: cancel it, since it runs there. Waiting: it may be
        claimed for this backend again, so keep watching it for LEAVE_SECONDS. Claimed for this backend: a new
        process has it. If the worker is stopping, the next process that serves this backend cancels the rest.
        """
        until = time.monotonic() + LEAVE_SECONDS
        while True:
            if self._stop_at is not None:
                return Gone.LOST
            state = self._retry_until_available(lambda: claims.claim_holder(self.claim))
            if state == "here":
                return Gone.LOST
            if state in ("ended", "elsewhere") or time.monotonic() >= until:
                return self._cancel_in_comfyui()
            self.alive_at = time.monotonic()
            try:
                if self._client.whereabouts(self._id) in ("ended", "unknown"):
                    return Gone.LOST
            except Unreachable:
                return Gone.LOST
            self._pause(1.0)

    def _cancel_in_comfyui(self) -> Gone:
        """Remove it from ComfyUI's queue, or interrupt it if it is running. Only then is the slot free.

        With our bridge, ComfyUI restarts itself after HANG_SECONDS. If it has not stopped the prompt after
        twice that time, or rejects our requests, the slot is freed anyway: the prompt is cancelled as an
        orphan as soon as possible, and a hung ComfyUI gets no work while it runs that prompt.
        """
        until, backoff = time.monotonic() + 2 * settings.HANG_SECONDS, outages.Backoff(0.2, 5.0)
        pause = backoff.next()
        access_denied = False
        while True:
            try:
                self._client.cancel(self._id)
                if self._client.whereabouts(self._id) in ("ended", "unknown"):
                    self._client.delete_history(self._id)
                    return Gone.LOST
            except Unreachable as exc:
                if not exc.sent:
                    return Gone.LOST  # it is dead, and its queue with it
                access_denied = exc.access_denied
                pause = backoff.next()
            now = self.alive_at = time.monotonic()
            stops = self._stop_at is not None and now >= self._stop_at
            if access_denied or stops or now >= until:
                self._backend.orphans.set()
                if not access_denied and not stops:
                    self._backend.mark_hung(self._id)
                return Gone.LOST
            self._pause(pause)

    def _pause(self, seconds: float) -> None:
        """Wait for the next event of the prompt, but at most this long."""
        if self._subscription is not None:
            self._subscription.get(timeout=seconds)

    def _retry_until_available(self, do: Callable[[], T]) -> T:
        """Retry while the database is unavailable. Raises connections.UNAVAILABLE when it is time to stop."""
        return connections.retry_until_available(
            do, give_up=lambda: self._stop_at is not None and time.monotonic() >= self._stop_at
        )

    # -- progress writes -------------------------------------------------------------------------------
    def _log_line(self, line: Line) -> None:
        self._lines.append(line)

    def _write_progress(self) -> bool:
        """Write progress and log lines at most every WRITE_SECONDS. False: the claim is lost."""
        now = time.monotonic()
        if not self.begun or now - self._progress_checked_at < WRITE_SECONDS:
            return True
        self._progress_checked_at = now
        lines = self._lines + self._progress.take_lines()
        columns: dict[str, Any] = self._progress.columns()
        if not lines and columns == self._stored_progress and now - self._progress_stored_at < REPEAT_SECONDS:
            return True
        try:
            with connections.step():
                ours = state_machine.write_progress(self.claim, columns=columns, lines=lines)
        except connections.UNAVAILABLE as exc:
            logger.warning("progress of %s not written: %s", self._id, exc)
            self._lines = lines
            return True
        self._lines, self._stored_progress, self._progress_stored_at = [], columns, now
        return ours
