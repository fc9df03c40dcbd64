"""One execution on one ComfyUI: submit or rejoin, follow, and decide when to let go.

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

    def _follow(self, subscription: Subscription) -> Ended | Gone:
        while True:
            event = subscription.get(timeout=self._patience())
            self.alive_at = time.monotonic()
            ending = self._check_signals()
            if ending is None and event is not None:
                ending = self._handle_events(event)
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
        """Act on requests from other threads and on deadlines."""
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
        """Reconnect a seemingly live connection that gets no events: ComfyUI has lost our socket."""
        if self._backend.session.connected:
            self._backend.session.reconnect()

    def _handle_events(self, event: events.Event) -> Ended | Gone | None:
        self._heard_at = time.monotonic()
        self._silent_since = None
        self._recording.record(event)
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
        if has_news and self._looked_unasked and self.claim.taken_at is not None:
            self._connect_anew()

    def _look(self, *, unasked: bool = False) -> Ended | Gone | None:
        """Poll ComfyUI. `unasked`: because no event arrived."""
        self._looked_unasked = unasked
        self._heard_at = time.monotonic()
        try:
            where, history = self._where()
        except Unreachable as exc:
            return self._silent(exc)
        self._silent_since = None
        self._check_for_lost_events(has_news=history is not None or (where == "running" and not self.begun))
        if history is not None:
            return self._ended(history)
        if where == "unknown":
            return self._back("its ComfyUI was restarted and lost it", fault=self._may_have_crashed_comfyui())
        if where == "running":
            return None if self._begin() else self._leave_to_others()
        return self._stuck()

    def _where(self) -> tuple[str, History | None]:
        """Where ComfyUI has the prompt, and its history once it has ended."""
        with self._backend.suspects.handling(self.claim, alive=self._show_life):
            history = self._client.history(self._id)
            where = "ended" if history else self._client.whereabouts(self._id)
            return where, history or (self._client.history(self._id) if where == "ended" else None)

    def _show_life(self) -> None:
        self.alive_at = time.monotonic()

    def _silent(self, exc: Unreachable) -> Gone | None:
        """ComfyUI does not respond. If it refuses connections, it has died; else it may recover."""
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        self._heard_at = now - IDLE_SECONDS + 1.0  # poll again soon
        patience = settings.STALL_SECONDS if exc.sent else GONE_SECONDS
        if now - self._silent_since < patience:
            return None
        self._backend.failed(self._id)
        self._backend.strays.set()  # it may restart with the prompt
        if exc.turned_away:
            return self._back("its ComfyUI denies access", hold=True)
        to_blame = (self.begun or not exc.by_gateway) and self._may_have_crashed_comfyui()
        return self._back("its ComfyUI died", fault=to_blame, hold=True)

    def _stuck(self) -> Ended | Gone | None:
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

    def _ended(self, history: History) -> Ended | Gone:
        if not self._begin():
            return self._leave_to_others()
        if history.outcome == "interrupted":
            return self._back("it was interrupted in ComfyUI by someone else")
        if history.error is not None and comfyui_errors.is_disk_full(history.error):
            return self._not_now("the disk of its ComfyUI is full", history.error.message, pause=True)
        self._backend.record_success()
        return Ended(history, self._lines + self._progress.take_lines(), self._warnings, self._began)
