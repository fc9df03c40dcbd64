"""One execution on one ComfyUI: submit or rejoin, follow, and decide when to release it.

Websocket events are hints, the history is authoritative, and both have a deadline. The slot is free as soon
as `run` returns: then ComfyUI neither runs nor queues the prompt, or another owner is responsible for it.

The parts: `attempt` (state, ways to end), `submitter` (into ComfyUI), and following the run, here.
"""

from __future__ import annotations

import logging
import time

from django.conf import settings

from comfyserve.db import connections
from comfyui import History, Subscription, Unreachable, events
from workflows.fleet import registry
from workflows.graph import comfyui_errors

from . import celery_tasks
from .attempt import RECORD_BEGIN_SECONDS, WRITE_SECONDS, Ended, Gone
from .submitter import Submitter

logger = logging.getLogger(__name__)

IDLE_SECONDS = 3.0  # without an event: poll queue and history
GONE_SECONDS = 5.0  # ComfyUI refuses connections for this long: its run is lost
FOREIGN_SECONDS = 60.0  # behind a prompt that is not ours: requeue


class Runner(Submitter):
    """`run` must be called in the slot's thread; `abandon`, `give_back` and `stop` from any other."""

    def run(self) -> Ended | Gone:
        try:
            with self._backend.session.subscribe(self._id) as subscription:
                self._subscription = subscription
                return self._submit_or_rejoin() or self._follow(subscription)
        except connections.UNAVAILABLE as exc:
            if self._stop_at is None:
                raise
            logger.warning("execution %s is left to the next process: %s", self._id, exc)
            return Gone.LEFT_IN_COMFYUI
        finally:
            self.over = True
            self._backend.present.discard(self._id)
            if self._poster_session is not None:
                self._poster_session.close()
            celery_tasks.end(self.claim)
            self._backend.placed.release(self.claim.token)

    def _follow(self, subscription: Subscription) -> Ended | Gone:
        while True:
            event = subscription.get(timeout=self._seconds_until_due())
            self.alive_at = time.monotonic()
            ending = self._check_signals()
            if ending is None and event is not None:
                ending = self._handle_events(event)
            elif ending is None and self.alive_at - self._last_event_at >= IDLE_SECONDS:
                ending = self._poll(without_event=True)
            if ending is None and not (self._record_begin() and self._write_progress()):
                ending = self._release_lost_claim()
            if ending is not None:
                return ending

    def _seconds_until_due(self) -> float:
        """Seconds until something is due even without an event."""
        now = time.monotonic()
        due = [
            self._last_event_at + IDLE_SECONDS,
            self._progress_checked_at + WRITE_SECONDS if self.begun else now + IDLE_SECONDS,
        ]
        moments = (self._deadline, self._stop_at, self._status_due)
        due += [moment for moment in moments if moment is not None and moment > now]
        if self._began is not None:
            due.append(self._began.at + RECORD_BEGIN_SECONDS)
        return max(0.001, min(due) - now)

    def _check_signals(self) -> Ended | Gone | None:
        """Act on requests from other threads and on deadlines."""
        now = time.monotonic()
        if self._status_due is not None and now >= self._status_due:
            self._status_due = None
            if self._backend.session.status_at < self._posted_at:
                self._reconnect()
        if self._abandoned.is_set():
            return self._release_lost_claim()
        if self._deadline is not None and now >= self._deadline:
            return self._timed_out()
        if not self.begun and self._backend.hung:
            return self._try_to_give_back("its ComfyUI does not stop another workflow")
        if not self.begun and (self._requeue_wanted.is_set() or self._stop_at is not None):
            self._requeue_wanted.clear()
            return self._try_to_give_back()
        if self._stop_at is not None and now >= self._stop_at:
            return Gone.LEFT_IN_COMFYUI
        return None

    def _reconnect(self) -> None:
        """Reconnect a seemingly live connection that gets no events: ComfyUI has lost our socket."""
        if self._backend.session.connected:
            self._backend.session.reconnect()

    def _handle_events(self, event: events.Event) -> Ended | Gone | None:
        self._last_event_at = time.monotonic()
        self._unreachable_since = None
        self._recording.record(event)
        match event:
            case events.Ended():
                history = self._recorded()
                return self._finish_run(history) if history else self._poll()
            case events.Connected():
                return self._poll()
            case events.Disconnected():
                return None
            case _:
                if not self._begin():
                    return self._release_lost_claim()
                self._progress.handle(event)
                self._relay.handle(event)
                if isinstance(event, events.Preview):
                    self._previews.show(event)
        return None

    def _recorded(self) -> History | None:
        """The history reconstructed from events; None if one may be missing."""
        complete = self._subscription is not None and not self._subscription.dropped
        return self._recording.history() if complete else None

    def _check_for_lost_events(self, *, has_news: bool) -> None:
        """If a poll found news without any event, assume that no events arrive, and reconnect."""
        if has_news and self._polled_without_event and self.claim.taken_at is not None:
            self._reconnect()

    def _poll(self, *, without_event: bool = False) -> Ended | Gone | None:
        """Poll ComfyUI. `without_event`: because no event has arrived."""
        self._polled_without_event = without_event
        self._last_event_at = time.monotonic()
        try:
            where, history = self._locate()
        except Unreachable as exc:
            return self._handle_unreachable(exc)
        self._unreachable_since = None
        self._check_for_lost_events(has_news=history is not None or (where == "running" and not self.begun))
        if history is not None:
            return self._finish_run(history)
        if where == "unknown":
            return self._requeue(
                "its ComfyUI was restarted and lost it", fault=self._may_have_crashed_comfyui()
            )
        if where == "running":
            return None if self._begin() else self._release_lost_claim()
        return self._check_queue_ahead()

    def _locate(self) -> tuple[str, History | None]:
        """Where ComfyUI has the prompt, and its history once it has ended."""
        with self._backend.suspects.handling(self.claim, alive=self._report_alive):
            history = self._client.history(self._id)
            where = "ended" if history else self._client.whereabouts(self._id)
            return where, history or (self._client.history(self._id) if where == "ended" else None)

    def _report_alive(self) -> None:
        self.alive_at = time.monotonic()

    def _handle_unreachable(self, exc: Unreachable) -> Gone | None:
        """ComfyUI does not respond. If it refuses connections, it has died; else it may recover."""
        now = time.monotonic()
        self._unreachable_since = self._unreachable_since or now
        self._last_event_at = now - IDLE_SECONDS + 1.0  # poll again soon
        limit = settings.STALL_SECONDS if exc.sent else GONE_SECONDS
        if now - self._unreachable_since < limit:
            return None
        self._backend.record_fault(self._id)
        self._backend.orphans.set()  # it may restart with the prompt
        if exc.access_denied:
            return self._requeue("its ComfyUI denies access", hold=True)
        to_blame = (self.begun or not exc.by_gateway) and self._may_have_crashed_comfyui()
        return self._requeue("its ComfyUI died", fault=to_blame, hold=True)

    def _check_queue_ahead(self) -> Ended | Gone | None:
        """Queued in ComfyUI: wait behind an execution of ours, but behind others only for a while."""
        try:
            running = [item.prompt_id for item in self._client.queue().running]
            with connections.step():
                ours = registry.are_ours(running)
        except (Unreachable, *connections.UNAVAILABLE) as exc:
            logger.warning("the queue ahead of %s is unknown: %s", self._id, exc)
            return None
        if ours:
            self._queued_since = time.monotonic()
        if time.monotonic() - self._queued_since < FOREIGN_SECONDS:
            return None
        return self._try_to_give_back(reason="it was stuck behind a prompt that is not ours", hold=True)

    def _finish_run(self, history: History) -> Ended | Gone:
        if not self._begin():
            return self._release_lost_claim()
        if history.outcome == "interrupted":
            return self._requeue("it was interrupted in ComfyUI by someone else")
        if history.error is not None and comfyui_errors.is_disk_full(history.error):
            return self._requeue_after_fault(
                "the disk of its ComfyUI is full", history.error.message, pause=True
            )
        self._backend.record_success()
        self._backend.uncollected.add(self._id)
        return Ended(history, self._lines + self._progress.take_lines(), self._warnings, self._began)
