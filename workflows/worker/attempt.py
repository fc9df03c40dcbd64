"""One attempt at an execution on one ComfyUI: its state, and how it is let go of. `runner` has its course."""

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
from workflows.queue import claims, requeueing, state_machine
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
RECORD_BEGIN_SECONDS = 0.04  # a run that is shorter is written once, at its end
WRITE_SECONDS = 0.5  # at most so often progress is written
REPEAT_SECONDS = 3.0  # progress that stays as it is is written so often: a write says that the claim is lost
FIRST_HOLD, LONGEST_HOLD = 3.0, 60.0  # seconds after a fault of the system that nobody may take it
LEAVE_SECONDS = 60.0  # a run whose claim is lost, and which nobody has taken again, is kept for so long


class Gone(enum.Enum):
    """The slot is free and there is nothing to collect."""

    BACK = "back"  # in the queue again
    LOST = "lost"  # ended from outside, or claimed by somebody else
    LEFT = "left"  # still in ComfyUI, for whoever serves this backend next
    FAILED = "failed"  # and recorded


@dataclass(frozen=True)
class Ended:
    """ComfyUI has ended it; outputs are to be collected."""

    history: History
    lines: list[Line] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # what ComfyUI left out
    began: Began | None = None  # where the row does not say yet that it has begun


class NotWanted(Exception):
    """While its inputs were placed: the claim is lost, or the execution is wanted back."""


class Attempt:
    """What the parts of a run share: its state, its begin, what is written, and how it is let go of.

    `abandon`, `give_back` and `stop` may be called from any thread, everything else from that of the slot.
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
        self._wanted_back = threading.Event()
        self._back_because = ""
        self._stop_at: float | None = None
        self._deadline: float | None = None  # of the running, by timeout_minutes
        self._written_at = 0.0  # when it was last seen whether there is something to write
        self._written: dict[str, Any] | None = None  # the progress that the row has
        self._stored_at = 0.0
        self._heard_at = time.monotonic()
        self._silent_since: float | None = None  # ComfyUI does not answer
        self._queued_since = time.monotonic()
        self._looked_unasked = False
        self._inherited: Session | None = None  # hears what goes to the process that had posted it
        self._lines: list[Line] = []
        self._warnings: list[str] = []
        self._began: Began | None = None  # until the row says it
        self._status_due: float | None = None  # until then our submission is to bring a status
        self._posted_at = 0.0
        self._next_up = False  # nothing was before it in ComfyUI when it was posted

    # -- from other threads ----------------------------------------------------------------------------
    def abandon(self) -> None:
        """The claim is lost, or the execution was ended from outside."""
        self._abandoned.set()
        self._wake()

    def give_back(self, *, reason: str) -> None:
        """Let other workers have this one, if it has not begun."""
        self._back_because = reason
        self._wanted_back.set()
        self._wake()

    def stop(self, *, at: float) -> None:
        """The worker stops: what has not begun goes back, what runs may run until `at` (monotonic)."""
        self._stop_at = at
        self._wake()

    def _wake(self) -> None:
        if self._subscription is not None:
            self._subscription.wake()

    # -- its begin -------------------------------------------------------------------------------------
    def _begin(self) -> bool:
        """ComfyUI has begun it. False: the claim is lost."""
        if self.begun:
            return True
        self._began = Began(time.monotonic(), self._progress.total_steps)
        self._has_begun()
        return not self.claim.webhook or self._record_begin(now=True)

    def _record_begin(self, *, now: bool = False) -> bool:
        """Write that it has begun, a moment later: most of what is short ends first, and is written once.

        A webhook of the begin is owed at once. False: the claim is lost.
        """
        began = self._began
        if began is None or not (now or began.seconds_ago >= RECORD_BEGIN_SECONDS):
            return True
        self._began = None
        steps, ago = began.total_steps, began.seconds_ago
        return self._retry_until_available(
            lambda: state_machine.begin(self.claim, total_steps=steps, seconds_ago=ago)
        )

    def _has_begun(self) -> None:
        self.begun = True
        celery_tasks.begin(self.claim)
        self._written_at = time.monotonic()
        self._deadline = time.monotonic() + self.claim.timeout_minutes * 60 - self.claim.elapsed
        model_usage.note(self.claim.prompt)

    def _may_be_to_blame(self) -> bool:
        """Whether it ran when its ComfyUI died. What kills at once may do so before the event is out."""
        return self.begun or (self._next_up and self._begin())

    # -- letting go ------------------------------------------------------------------------------------
    def _not_now(self, reason: str, cause: object) -> Gone:
        """A fault of the system. What exactly is for operators: it names hosts."""
        logger.warning("execution %s goes back: %s: %s", self._id, reason, cause)
        self._backend.failed(self._id)
        return self._back(reason, hold=True)

    def _timed_out(self) -> Gone:
        minutes = self.claim.timeout_minutes
        fault = Fault(
            f"Timed out: it ran longer than {minutes} minute{'s' if minutes != 1 else ''}",
            {"type": "timeout", "timeout_minutes": minutes, "node_errors": {}},
            cause=FailureCause.TIMEOUT,
        )
        return self._clear() if self._record_failure(fault) else self._leave_to_others()

    def _fail(self, fault: Fault) -> Gone:
        self._record_failure(fault)
        return Gone.FAILED

    def _record_failure(self, fault: Fault) -> bool:
        """False: the claim had been lost."""
        outcome = Outcome(
            Status.FAILED,
            error=fault.error,
            error_details=fault.details,
            failure_cause=fault.cause,
            lines=self._lines + self._progress.take_lines(),
            gpu_seconds=self._gpu_seconds(),
        )
        return self._retry_until_available(lambda: state_machine.finish(self.claim, outcome))

    def _gpu_seconds(self) -> float:
        if self._deadline is None:
            return 0.0
        return max(0.0, time.monotonic() - (self._deadline - self.claim.timeout_minutes * 60))

    def _back(self, reason: str, *, fault: bool = False, exclude: bool = False, hold: bool = False) -> Gone:
        self._record_begin(now=True)  # so that it counts as one that was taken back while it ran
        self._retry_until_available(
            lambda: requeueing.requeue(
                self.claim,
                reason=reason,
                fault=fault,
                exclude=exclude,
                hold_seconds=self._backoff() if hold else None,
            )
        )
        return Gone.BACK

    def _backoff(self) -> float:
        """Seconds; twice as many with each try that failed."""
        return min(FIRST_HOLD * 2.0 ** min(self.claim.tries, 10), LONGEST_HOLD)

    def _try_to_give_back(self, reason: str = "", *, hold: bool = False) -> Gone | None:
        """Take it out of ComfyUI's queue, unless it has just begun there. None: keep following it."""
        reason = "its worker stops" if self._stop_at is not None else reason or self._back_because
        try:
            self._client.delete_queued(self._id)
            if self._client.whereabouts(self._id) != "unknown":
                return None
        except Unreachable:
            return Gone.LEFT if self._stop_at is not None else None
        return self._back(reason, hold=hold)

    def _leave_to_others(self) -> Gone:
        """The claim is gone. ComfyUI's copy is ours to clear only if nobody waits for it here.

        Ended: clear it. Claimed for another backend: clear it, since it runs there. Waiting: it may be
        claimed for this backend again, so keep an eye on it, for LEAVE_SECONDS. Claimed for this one: a new
        process has it. When the worker stops, whoever serves this backend next clears what is left.
        """
        until = time.monotonic() + LEAVE_SECONDS
        while True:
            if self._stop_at is not None:
                return Gone.LOST
            state = self._retry_until_available(lambda: claims.claim_holder(self.claim))
            if state == "here":
                return Gone.LOST
            if state in ("ended", "elsewhere") or time.monotonic() >= until:
                return self._clear()
            self.alive_at = time.monotonic()
            try:
                if self._client.whereabouts(self._id) in ("ended", "unknown"):
                    return Gone.LOST
            except Unreachable:
                return Gone.LOST
            self._pause(1.0)

    def _clear(self) -> Gone:
        """Out of ComfyUI: its queue, and its GPU if it is this one that runs. Only then is the slot free.

        With our bridge it restarts itself after HANG_SECONDS. One that has not let go after twice that time,
        or does not let us in, keeps no slot: what is left there is cleared as a stray as soon as it can be,
        and nothing is given to it while it runs that prompt.
        """
        until, backoff = time.monotonic() + 2 * settings.HANG_SECONDS, outages.Backoff(0.2, 5.0)
        pause = backoff.next()
        turned_away = False
        while True:
            try:
                self._client.cancel(self._id)
                if self._client.whereabouts(self._id) in ("ended", "unknown"):
                    self._client.delete_history(self._id)
                    return Gone.LOST
            except Unreachable as exc:
                if not exc.sent:
                    return Gone.LOST  # it is dead, and its queue with it
                turned_away = exc.turned_away
                pause = backoff.next()
            now = self.alive_at = time.monotonic()
            stops = self._stop_at is not None and now >= self._stop_at
            if turned_away or stops or now >= until:
                self._backend.strays.set()
                if not turned_away and not stops:
                    self._backend.hangs_on(self._id)
                return Gone.LOST
            self._pause(pause)

    def _pause(self, seconds: float) -> None:
        """Until something happens to the prompt, but not longer."""
        if self._subscription is not None:
            self._subscription.get(timeout=seconds)

    def _retry_until_available(self, do: Callable[[], T]) -> T:
        """Outlasts the database's absence, but not the time to stop: then it raises database.UNAVAILABLE."""
        return connections.retry_until_available(
            do, give_up=lambda: self._stop_at is not None and time.monotonic() >= self._stop_at
        )

    # -- what is written -------------------------------------------------------------------------------
    def _note(self, line: Line) -> None:
        self._lines.append(line)

    def _write(self) -> bool:
        """Progress and lines, now and then. False: the claim is lost."""
        now = time.monotonic()
        if not self.begun or now - self._written_at < WRITE_SECONDS:
            return True
        self._written_at = now
        lines = self._lines + self._progress.take_lines()
        columns: dict[str, Any] = self._progress.columns()
        if not lines and columns == self._written and now - self._stored_at < REPEAT_SECONDS:
            return True
        try:
            with connections.step():
                ours = state_machine.write_progress(self.claim, columns=columns, lines=lines)
        except connections.UNAVAILABLE as exc:
            logger.warning("progress of %s not written: %s", self._id, exc)
            self._lines = lines
            return True
        self._lines, self._written, self._stored_at = [], columns, now
        return ours
