"""One execution on one ComfyUI: submit or join, follow, and know when to let go.

The websocket is a hint, history is the truth, and both have a deadline. The slot is free as soon as `run`
returns: then ComfyUI neither runs nor queues the prompt, or somebody else is responsible for it.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.conf import settings

from comfyserve.db import connections
from comfyui import History, Recording, Refused, Session, Subscription, Unreachable, events
from workflows.fleet import registry
from workflows.graph import advice, comfyui_errors, input_files, model_usage, node_info, node_policy, parsing
from workflows.graph.comfyui_errors import Fault
from workflows.models import FailureCause, Level, Status
from workflows.queue import claims, requeueing, state_machine
from workflows.queue.claims import Claim
from workflows.queue.execution_log import Line
from workflows.queue.state_machine import Outcome
from workflows.queue.transitions import Began

from . import celery_tasks, input_transfer
from .backend import Backend
from .previews import Previews
from .progress import Progress

logger = logging.getLogger(__name__)

T = TypeVar("T")

IDLE_SECONDS = 3.0  # without an event: look at queue and history
RECORD_BEGIN_SECONDS = 0.04  # a run that is shorter is written once, at its end
WRITE_SECONDS = 0.5  # at most so often progress is written
REPEAT_SECONDS = 3.0  # progress that stays as it is is written so often: a write says that the claim is lost
GONE_SECONDS = 5.0  # nothing listens at ComfyUI's address for so long: its run is lost
STRANGER_SECONDS = 60.0  # behind a prompt that is not ours: back to the queue
FIRST_HOLD, LONGEST_HOLD = 3.0, 60.0  # seconds after a fault of the system that nobody may take it
STUMBLES = 3  # ComfyUI answered 500 to it so often: the graph is to blame
STATUS_SECONDS = 1.0  # so soon after a submission ComfyUI tells every socket that its queue is longer
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


class _NotWanted(Exception):
    """While its inputs were placed: the claim is lost, or the execution is wanted back."""


class Runner:
    """`run` in the thread of its slot; `abandon`, `give_back` and `stop` from any other."""

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

    # -- the run ---------------------------------------------------------------------------------------
    def run(self) -> Ended | Gone:
        try:
            with self._backend.session.subscribe(self._id) as subscription:
                self._subscription = subscription
                return self._place() or self._follow(subscription)
        except connections.UNAVAILABLE as exc:
            if self._stop_at is None:
                raise
            logger.warning("execution %s is left to the next process: %s", self._id, exc)
            return Gone.LEFT
        finally:
            self.over = True
            self._backend.present.discard(self._id)
            if self._inherited is not None:
                self._inherited.close()
            celery_tasks.end(self.claim)
            self._backend.placed.release(self.claim.token)

    def _place(self) -> Ended | Gone | None:
        """Bring it into ComfyUI, or find it there. None: it is there, follow it."""
        claim = self.claim
        adopted = claim.taken_at is None
        if not adopted and claim.attempt == 1:
            return self._post()
        try:
            where = self._client.whereabouts(self._id)
            if adopted and claim.posted_at is not None:
                return self._join(where)
            if where == "ended":
                self._client.delete_history(self._id)  # of an earlier attempt; history would show that one
        except Unreachable as exc:
            return self._not_now("ComfyUI does not answer", exc)
        if where in ("running", "queued"):
            self._note(Line("An earlier attempt is still in ComfyUI and is followed"))
            return None if self._about_to_post() else self._leave_to_others()
        return self._post()

    def _join(self, where: str) -> Gone | None:
        """An earlier process of this worker had posted it."""
        if where == "unknown":
            running = self.claim.status == Status.RUNNING
            return self._back("ComfyUI was restarted and lost it", fault=running)
        self._note(Line("Found in ComfyUI and joined" if where != "ended" else "Found finished in ComfyUI"))
        if where != "ended":
            self._hear_as_before()
        if self.claim.status == Status.RUNNING:
            self._has_begun()
        self._heard_at = 0.0  # look at once
        return None

    def _hear_as_before(self) -> None:
        """Events go to the client id that a prompt was posted with: that of the earlier process."""
        try:
            state = self._client.queue()
        except Unreachable as exc:
            logger.warning("execution %s is followed without events: %s", self._id, exc)
            return
        ids = {item.client_id for item in [*state.running, *state.pending] if item.prompt_id == self._id}
        for client_id in ids - {None, self._backend.session.client_id}:
            self._inherited = self._backend.session.also_as(str(client_id))

    def _about_to_post(self) -> bool:
        return self._retry_until_available(lambda: claims.mark_submitted(self.claim, boot=self._backend.boot))

    def _prepare(self) -> parsing.Prompt | Gone:
        """Its input files onto ComfyUI; the prompt with the names they have there."""
        try:
            with self._backend.suspects.handling(self.claim, alive=self._still_wanted):
                return input_transfer.prepare(self.claim, backend=self._backend, alive=self._still_wanted)
        except input_transfer.Unplaceable as exc:
            return self._fail(exc.fault)
        except input_transfer.NotNow as exc:
            return self._back(str(exc), hold=True)
        except _NotWanted:
            if self._abandoned.is_set():
                return self._leave_to_others()
            return self._back("its worker stops" if self._stop_at is not None else self._back_because)

    def _still_wanted(self) -> None:
        self.alive_at = time.monotonic()
        if self._abandoned.is_set() or self._wanted_back.is_set() or self._stop_at is not None:
            raise _NotWanted

    def _denied(self) -> Fault | None:
        """The policy again: it may have changed, and only here it is known which ComfyUI runs it."""
        backend, prompt = self._backend, self.claim.prompt

        def judge() -> list[tuple[str, str]]:
            policy = node_policy.Policy(user_id=self.claim.user_id, confines=backend.has_bridge)
            return list(policy.denials(prompt, backend.node_classes))

        denials = self._retry_until_available(judge)
        if not denials:
            return None
        node_id, sentence = denials[0]
        details = {"type": "node_not_allowed", "message": sentence, "node_id": node_id, "node_errors": {}}
        return Fault(sentence, details, cause=FailureCause.REFUSED)

    def _extra_data(self, prepared: parsing.Prompt) -> dict[str, Any] | None:
        """What the user sent; for the bridge, whose folders these are, what may be read there, and what files
        carry as metadata."""
        given: dict[str, Any] | None = self.claim.extras.get("extra_data")
        if not self._backend.has_bridge:
            return given
        inputs = input_transfer.placed_for(self.claim, prepared)
        workflow = input_files.as_given(self.claim.prompt)
        own = {"mark": self.claim.mark, "inputs": inputs, "workflow": workflow, "limits": self._limits()}
        return {**(given or {}), "comfyserve": own}

    def _limits(self) -> dict[str, float]:
        """After which the bridge restarts a ComfyUI that hangs."""
        return {
            "run_seconds": self.claim.timeout_minutes * 60.0,
            "stop_seconds": settings.HANG_SECONDS,
            "silent_seconds": min(settings.STALL_SECONDS, 2 * settings.HANG_SECONDS),
        }

    def _post(self) -> Ended | Gone | None:
        denied = self._denied()
        if denied is not None:
            return self._fail(denied)
        prepared = self._prepare()
        if isinstance(prepared, Gone):
            return prepared
        if not self._about_to_post():
            return self._leave_to_others()
        classes = self._classes()
        prompt = parsing.mark_outputs(
            advice.with_separators(prepared, classes),
            outputs=self._backend.output_nodes(self.claim.prompt),
            mark=self.claim.mark,
        )
        # What ComfyUI said last of its queue may be older than what another thread has just posted.
        self._next_up = not self._backend.session.queue_remaining and not self._backend.present
        self._backend.present.add(self._id)
        self._posted_at = time.monotonic()
        try:
            submitted = self._client.submit(
                prompt=prompt,
                prompt_id=self._id,
                client_id=self._backend.session.client_id,
                extra_data=self._extra_data(prepared),
                partial_execution_targets=self.claim.extras.get("partial_execution_targets"),
            )
        except Refused as refused:
            if self.claim.tries + 1 < input_transfer.FETCHES and input_transfer.have_gone(
                refused, self.claim, prepared, backend=self._backend
            ):
                return self._back("an input was deleted from ComfyUI, and is placed again", hold=True)
            return self._refused(comfyui_errors.of_refusal(refused, self.claim.prompt, classes))
        except Unreachable as exc:
            return self._post_unanswered(exc)
        self._status_due = time.monotonic() + STATUS_SECONDS
        prompt = self.claim.prompt
        self._warnings = comfyui_errors.dropped(
            submitted.node_errors,
            prompt,
            classes,
            near=lambda missing: model_usage.near(missing, prompt),
        )
        self._warnings += advice.warnings(
            prompt, classes, model_usage.embeddings(prompt, worker=self._backend.name)
        )
        for sentence in self._warnings:
            self._note(Line(sentence, Level.WARNING))
        return None

    def _classes(self) -> node_info.Classes:
        """What its ComfyUI has; nothing where the database is away, for messages only."""
        try:
            with connections.step():
                return node_info.of(self._backend.object_info_digest)
        except connections.UNAVAILABLE:
            return {}

    def _post_unanswered(self, exc: Unreachable) -> Gone | None:
        """ComfyUI may have it all the same: look before anything else."""
        if exc.turned_away:
            return self._not_now("its ComfyUI did not let us in", exc)
        try:
            if exc.sent and self._client.whereabouts(self._id) != "unknown":
                return None
        except Unreachable as silent:
            if exc.status is None and silent.status is None and silent.sent:
                return None  # slow, it seems: patience is a matter of following
            self._backend.strays.set()  # it may have been accepted after all
            if exc.status is not None or silent.status is not None:
                return self._not_now("its ComfyUI was not reached", exc)
            return self._back("its ComfyUI is gone", fault=exc.sent and self._may_be_to_blame(), hold=True)
        to_blame = self.claim.tries + 1 >= STUMBLES and self._backend.fails_only_with(self._id)
        if exc.status == 500 and to_blame:
            fault = Fault(
                "ComfyUI can not read the workflow (it answered 500)",
                {"type": "unreadable", "node_errors": {}},
                cause=FailureCause.UNREADABLE,
            )
            return self._fail(fault)
        return self._not_now("ComfyUI did not take it", exc)

    def _not_now(self, reason: str, cause: object) -> Gone:
        """A fault of the system. What exactly is for operators: it names hosts."""
        logger.warning("execution %s goes back: %s: %s", self._id, reason, cause)
        self._backend.failed(self._id)
        return self._back(reason, hold=True)

    def _refused(self, fault: Fault) -> Gone:
        """The workflow's fault, unless another backend has what is missing here."""
        self._backend.record_success()
        if fault.lacks:
            others = self._retry_until_available(lambda: registry.others_alive(name=self.claim.worker))
            if set(others) - set(self.claim.excluded):
                return self._back(f"this worker does not have {', '.join(fault.lacks)}", exclude=True)
        return self._fail(model_usage.with_suggestions(fault, self.claim.prompt))

    # -- following -------------------------------------------------------------------------------------
    def _follow(self, subscription: Subscription) -> Ended | Gone:
        while True:
            event = subscription.get(timeout=self._patience())
            self.alive_at = time.monotonic()
            ending = self._check_signals()
            if ending is None and event is not None:
                ending = self._hear(event)
            elif ending is None and self.alive_at - self._heard_at >= IDLE_SECONDS:
                ending = self._look(unasked=True)
            if ending is None and not (self._record_begin() and self._write()):
                ending = self._leave_to_others()
            if ending is not None:
                return ending

    def _patience(self) -> float:
        """Seconds until something is due even without an event."""
        now = time.monotonic()
        due = [
            self._heard_at + IDLE_SECONDS,
            self._written_at + WRITE_SECONDS if self.begun else now + IDLE_SECONDS,
        ]
        moments = (self._deadline, self._stop_at, self._status_due)
        due += [moment for moment in moments if moment is not None and moment > now]
        if self._began is not None:
            due.append(self._began.at + RECORD_BEGIN_SECONDS)
        return max(0.001, min(due) - now)

    def _check_signals(self) -> Ended | Gone | None:
        """What other threads and the clock want."""
        now = time.monotonic()
        if self._status_due is not None and now >= self._status_due:
            self._status_due = None
            if self._backend.session.status_at < self._posted_at:
                self._connect_anew()
        if self._abandoned.is_set():
            return self._leave_to_others()
        if self._deadline is not None and now >= self._deadline:
            return self._timed_out()
        if not self.begun and self._backend.hung:
            return self._try_to_give_back("its ComfyUI does not stop another workflow")
        if not self.begun and (self._wanted_back.is_set() or self._stop_at is not None):
            self._wanted_back.clear()
            return self._try_to_give_back()
        if self._stop_at is not None and now >= self._stop_at:
            return Gone.LEFT
        return None

    def _connect_anew(self) -> None:
        """ComfyUI tells us nothing, though the connection seems to live: it has forgotten our socket."""
        if self._backend.session.connected:
            self._backend.session.reconnect()

    def _hear(self, event: events.Event) -> Ended | Gone | None:
        self._heard_at = time.monotonic()
        self._silent_since = None
        self._recording.hear(event)
        match event:
            case events.Ended():
                history = self._recorded()
                return self._ended(history) if history else self._look()
            case events.Connected():
                return self._look()
            case events.Disconnected():
                return None
            case _:
                if not self._begin():
                    return self._leave_to_others()
                self._progress.hear(event)
                if isinstance(event, events.Preview):
                    self._previews.show(event)
        return None

    def _recorded(self) -> History | None:
        """The history as the events have told it; None where one may be missing."""
        complete = self._subscription is not None and not self._subscription.dropped
        return self._recording.history() if complete else None

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

    def _doubt_silence(self, *, has_news: bool) -> None:
        """After a look for want of events: news that no event had brought say that none arrives."""
        if has_news and self._looked_unasked and self.claim.taken_at is not None:
            self._connect_anew()

    def _look(self, *, unasked: bool = False) -> Ended | Gone | None:
        """Ask ComfyUI itself. `unasked`: no event made us do it."""
        self._looked_unasked = unasked
        self._heard_at = time.monotonic()
        try:
            where, history = self._where()
        except Unreachable as exc:
            return self._silent(exc)
        self._silent_since = None
        self._doubt_silence(has_news=history is not None or (where == "running" and not self.begun))
        if history is not None:
            return self._ended(history)
        if where == "unknown":
            return self._back("its ComfyUI was restarted and lost it", fault=self._may_be_to_blame())
        if where == "running":
            return None if self._begin() else self._leave_to_others()
        return self._stuck()

    def _where(self) -> tuple[str, History | None]:
        """Where ComfyUI has it, and its history once it has ended."""
        with self._backend.suspects.handling(self.claim, alive=self._show_life):
            history = self._client.history(self._id)
            where = "ended" if history else self._client.whereabouts(self._id)
            return where, history or (self._client.history(self._id) if where == "ended" else None)

    def _show_life(self) -> None:
        self.alive_at = time.monotonic()

    def _silent(self, exc: Unreachable) -> Gone | None:
        """It does not answer. Nothing listens: it died, and its queue with it. Else it may come back."""
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        self._heard_at = now - IDLE_SECONDS + 1.0  # look again soon
        patience = settings.STALL_SECONDS if exc.sent else GONE_SECONDS
        if now - self._silent_since < patience:
            return None
        self._backend.failed(self._id)
        self._backend.strays.set()  # it may come back with the prompt
        if exc.turned_away:
            return self._back("its ComfyUI does not let us in any more", hold=True)
        to_blame = self.begun if exc.by_gateway else self._may_be_to_blame()
        return self._back("its ComfyUI is gone", fault=to_blame, hold=True)

    def _may_be_to_blame(self) -> bool:
        """Whether it ran when its ComfyUI died. What kills at once may do so before the event is out."""
        return self.begun or (self._next_up and self._begin())

    def _stuck(self) -> Ended | Gone | None:
        """In ComfyUI's queue: behind one of ours that is well, behind a stranger's only for a while."""
        try:
            running = [item.prompt_id for item in self._client.queue().running]
            with connections.step():
                ours = registry.are_ours(running)
        except (Unreachable, *connections.UNAVAILABLE) as exc:
            logger.warning("who is before %s is not known: %s", self._id, exc)
            return None
        if ours:
            self._queued_since = time.monotonic()
        if time.monotonic() - self._queued_since < STRANGER_SECONDS:
            return None
        return self._try_to_give_back(reason="it was stuck behind a prompt that is not ours", hold=True)

    def _ended(self, history: History) -> Ended | Gone:
        if not self._begin():
            return self._leave_to_others()
        if history.outcome == "interrupted":
            return self._back("somebody interrupted it in ComfyUI")
        if history.error is not None and comfyui_errors.is_disk_full(history.error):
            return self._not_now("the disk of its ComfyUI is full", history.error.message)
        self._backend.record_success()
        return Ended(history, self._lines + self._progress.take_lines(), self._warnings, self._began)

    # -- letting go ------------------------------------------------------------------------------------
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
        until, pause = time.monotonic() + 2 * settings.HANG_SECONDS, 0.2
        turned_away = False
        while True:
            try:
                self._client.delete_queued(self._id)
                # Older versions stop whatever runs, so see first that it is this one.
                if self._backend.is_running(self._id):
                    self._client.interrupt(self._id)
                elif self._client.whereabouts(self._id) in ("ended", "unknown"):
                    self._client.delete_history(self._id)
                    return Gone.LOST
            except Unreachable as exc:
                if not exc.sent:
                    return Gone.LOST  # it is dead, and its queue with it
                turned_away = exc.turned_away
                pause = min(pause * 2, 5.0)
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
