"""The two slots of a GPU worker: one execution runs, one is staged behind it in ComfyUI's queue.

A slot is occupied by the thread that calls `serve` (for a Celery ticket, a wake-up or from the maintenance
thread) for as long as there is work. Outputs are stored concurrently by a small thread pool.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from uuid import UUID

from comfyserve.db import connections
from workflows import notify
from workflows.fleet import registry
from workflows.models import Worker
from workflows.queue import claims, overtaking, requeueing, scheduling
from workflows.queue.claims import Claim

from . import finalize
from .attempt import Ended, Gone
from .backend import Backend
from .follow_ups import FollowUps
from .held_claim import Held
from .runner import Runner

logger = logging.getLogger(__name__)

SLOTS = 2
MAX_UNCOLLECTED = 8  # claim nothing new while this many executions are uncollected
COLLECTORS = 4
PAUSED = "its worker is paused"
LONG_SECONDS = 5.0  # while a shorter run is in progress, the staged execution stays: it is about to start


class Slots:
    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.claiming = False  # set by maintenance: this process holds the backend's lock and may claim work
        self.desired_state = Worker.DesiredState.WORK
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._occupied = 0
        self._tickets = 0
        self._held: dict[UUID, Held] = {}
        self._collecting = 0
        self._stopping = threading.Event()
        self._stop_at = 0.0
        self._collectors = ThreadPoolExecutor(COLLECTORS, thread_name_prefix="collect")
        self._follow_ups = FollowUps(backend, changed=self._notify, busy=self._is_busy)

    # -- claiming work ---------------------------------------------------------------------------------
    def serve(self) -> None:
        """Occupy a free slot and work until nothing is left; returns at once if no slot is free."""
        with self._lock:
            self._tickets += 1
        if self._occupied:
            self.reconsider_staged()
        with self._slot() as free:
            while free and self._serve_one():
                pass

    def _serve_one(self) -> bool:
        """Claim and run one execution. False: nothing is left, as far as is known.

        If nothing else waited when it was claimed and no ticket came since, the queue is not queried again
        now: that would only delay the result. Later wake-ups are handled as usual, and `_slot_freed` queries
        the queue once more.
        """
        seen = self._tickets
        claim = self._next()
        if claim is not None:
            self._run(Held(claim))
        return seen != self._tickets or (claim is not None and claim.more)

    def serve_in_thread(self) -> None:
        threading.Thread(target=self.serve, name="slot", daemon=True).start()

    def resume(self, claim: Claim) -> None:
        """Resume an execution left by an earlier process of this backend, even if all slots are occupied."""
        self._run_in_thread(claim, before=lambda: self._report_idle(False))

    def _run_in_thread(self, claim: Claim, *, before: Callable[[], None] = lambda: None) -> None:
        held = Held(claim)
        self._hold(held)
        occupied = ExitStack()
        occupied.enter_context(self._slot(extra=True))  # at once, so that the worker never appears empty

        def run_then_serve() -> None:
            with occupied:
                before()
                self._run(held)
            self.serve()

        threading.Thread(target=run_then_serve, name="slot", daemon=True).start()

    @contextmanager
    def _slot(self, *, extra: bool = False) -> Iterator[bool]:
        with self._lock:
            free = extra or self._occupied < SLOTS
            self._occupied += free
        try:
            yield free
        finally:
            if free:  # first, so that the worker never appears empty
                self._follow_ups.add(self._slot_freed, name="slot freed")
            with self._lock:
                self._occupied -= free
                self._changed.notify_all()
            if free:  # again: that job may have run already, while the slot was occupied
                self._follow_ups.add(self._slot_freed, name="slot freed")

    def _slot_freed(self) -> None:
        """Called shortly after a slot was freed. If all are, query the queue once more, and record that this
        worker is idle if it is empty.
        """
        if not self.idle:
            return
        claim = self._next()
        if claim is None:
            self._report_idle(True)
        else:
            self._run_in_thread(claim)

    def _next(self) -> Claim | None:
        if self._stopping.is_set() or not self.may_claim:
            return None
        try:
            with connections.step():
                return claims.take(
                    worker=self.backend.name,
                    boot_id=self.backend.boot_id,
                    leave_to_idle=self._occupied > 1,  # here it would only be staged
                )
        except connections.UNAVAILABLE as exc:
            logger.warning("no work claimed: the database is unavailable: %s", exc)
            return None

    @property
    def may_claim(self) -> bool:
        return self.claiming and not self.paused and self.backend.ready and not self.full

    @property
    def paused(self) -> bool:
        """Paused or drained by an operator: claims nothing new."""
        return self.desired_state != Worker.DesiredState.WORK

    @property
    def state(self) -> Worker.State:
        """The state reported in the heartbeat."""
        if self.desired_state == Worker.DesiredState.DRAIN and self._is_empty():
            return Worker.State.DRAINED
        if self._stopping.is_set() or self.desired_state == Worker.DesiredState.DRAIN:
            return Worker.State.DRAINING
        if self.paused:
            return Worker.State.PAUSED
        if self.backend.hung:
            return Worker.State.HUNG
        return Worker.State.FAULTY if self.backend.faulty else Worker.State.ACTIVE

    @property
    def full(self) -> bool:
        return self._collecting >= MAX_UNCOLLECTED

    @property
    def idle(self) -> bool:
        """No slot is occupied."""
        return self._occupied == 0

    @property
    def free(self) -> bool:
        return self._occupied < SLOTS

    def _report_idle(self, idle: bool) -> None:
        """Record whether this worker is idle. While it is, others stage nothing and return what they staged.

        `claims.take` itself records that the worker is no longer idle.
        """
        try:
            with connections.step():
                free = idle and self.may_claim
                staging = registry.set_idle(name=self.backend.name, idle=free)
            for other in staging if free else ():
                notify.ticket(other)
        except connections.UNAVAILABLE as exc:
            logger.warning("worker row not written: %s", exc)

    # -- running ---------------------------------------------------------------------------------------
    def _run(self, held: Held) -> None:
        with held.named_in_logs():
            self._run_named(held)

    def _run_named(self, held: Held) -> None:
        runner = held.runner = Runner(held.claim, self.backend)
        self._hold(held)
        if self.paused:  # since it was claimed, or under an earlier process
            runner.give_back(reason=PAUSED)
        if self._stopping.is_set():
            runner.stop(at=self._stop_at)
        ending: Ended | Gone = Gone.LOST
        try:
            ending = runner.run()
        except connections.UNAVAILABLE as exc:
            logger.error("execution %s is requeued, the database failed: %s", held.claim.execution_id, exc)
            self._give_up(held, "the database was not available", fault=False)
        except Exception:
            logger.exception("unexpected error in the runner of execution %s", held.claim.execution_id)
            self._give_up(held, "an internal error of its worker", fault=True)
        finally:
            if ending is not Gone.LEFT_IN_COMFYUI and not isinstance(ending, Ended):
                self._release(held)
                self._settle_later(held.claim)
        if isinstance(ending, Ended):
            self._collect(held, ending)

    def _give_up(self, held: Held, reason: str, *, fault: bool) -> None:
        """Requeue the execution with a short hold. With `fault`, it fails the second time. Never raises.

        Its prompt is cleared from ComfyUI once the claim is gone.
        """
        try:
            connections.retry_until_available(
                lambda: requeueing.requeue(held.claim, reason=reason, fault=fault, hold_seconds=5.0),
                stop=self._stopping,
            )
        except Exception:
            logger.exception("execution %s is left to the reaper", held.claim.execution_id)
        self.backend.orphans.set()

    def _collect(self, held: Held, ended: Ended) -> None:
        held.queued = True
        with self._lock:
            self._collecting += 1

        def work() -> None:
            held.alive()
            held.queued = False
            try:
                handled = self.backend.suspects.handling(held.claim, alive=held.alive)
                with held.named_in_logs(), handled:
                    finalize.conclude(
                        held.claim, ended, backend=self.backend, alive=held.alive, stop=self._stopping,
                        recorded=lambda made: self._follow_ups.recorded(held.claim, ended.history, made),
                    )  # fmt: skip
            except connections.UNAVAILABLE as exc:
                logger.warning("execution %s is left to the next process: %s", held.claim.execution_id, exc)
            except Exception:
                logger.exception("unexpected error in the collector of execution %s", held.claim.execution_id)
                self._give_up(held, "an internal error of its worker", fault=True)
            finally:
                was_full = self.full
                self._release(held)
                self._settle_later(held.claim)
                with self._lock:
                    self._collecting -= 1
                    self._changed.notify_all()
                if was_full:
                    self.serve_in_thread()

        self._collectors.submit(work)

    # -- held claims -----------------------------------------------------------------------------------
    def _hold(self, held: Held) -> None:
        self.backend.suspects.hold(held.claim)
        with self._lock:
            self._held[held.claim.token] = held

    def _release(self, held: Held) -> None:
        self.backend.suspects.release(held.claim)
        self.backend.uncollected.discard(str(held.claim.execution_id))
        with self._lock:
            self._held.pop(held.claim.token, None)

    def _settle_later(self, claim: Claim) -> None:
        user_id = claim.user_id
        self._follow_ups.add(lambda: self._settle(user_id), name=f"settle {user_id}")

    def _settle(self, user_id: int) -> None:
        """Update the places of the user's waiting executions. If this fails, the sweep does it later."""
        try:
            with connections.step():
                moved = scheduling.settle(user_id=user_id)
            if moved:  # a slot that skipped them meanwhile has stopped looking: see `scheduling.settle`
                self.serve_in_thread()
        except connections.UNAVAILABLE as exc:
            logger.warning("the order is corrected later, the database is unavailable: %s", exc)

    def tokens(self) -> set[UUID]:
        """The tokens of all claims held."""
        with self._lock:
            return set(self._held)

    def live_tokens(self) -> set[UUID]:
        """Tokens of claims whose thread is alive: those of stuck threads are left to the reaper."""
        with self._lock:
            return {token for token, held in self._held.items() if held.is_responsive}

    def assume_alive(self) -> None:
        """Treat all threads as alive: they could not report while the database was unavailable."""
        with self._lock:
            for held in self._held.values():
                held.alive()

    def lost(self, tokens: set[UUID]) -> None:
        """These claims are no longer ours."""
        with self._lock:
            found = [held for token, held in self._held.items() if token in tokens]
        for held in found:
            held.abandon()

    def ended(self, execution_id: str) -> None:
        """The execution was ended by another process; ignored if it is not held here."""
        with self._lock:
            found = [held for held in self._held.values() if str(held.claim.execution_id) == execution_id]
        for held in found:
            held.abandon()

    def occupants(self) -> tuple[Held | None, Held | None]:
        """(running, staged)."""
        with self._lock:
            followed = [held for held in self._held.values() if held.runner and not held.runner.over]
        running = next((held for held in followed if held.runner and held.runner.begun), None)
        staged = next((held for held in followed if held is not running), None)
        return running, staged

    def apply_desired_state(self, state: Worker.DesiredState) -> None:
        """Apply the state desired by an operator. If paused, requeue executions that have not started."""
        self.desired_state = state
        if not self.paused:
            return
        with self._lock:
            runners = [held.runner for held in self._held.values() if held.runner is not None]
        for runner in runners:
            if not runner.begun:
                runner.give_back(reason=PAUSED)

    def reconsider_staged(self) -> None:
        """Requeue the staged execution if another GPU is free, or it is another user's turn."""
        running, staged = self.occupants()
        if running is None or staged is None or staged.runner is None:
            return
        try:
            with connections.step():
                wanted = registry.is_wanted_elsewhere(staged.claim.execution_id, name=self.backend.name)
                overtaken = not wanted and self._is_overtaken(running, staged)
        except connections.UNAVAILABLE:
            return
        if wanted:
            staged.runner.give_back(reason="another worker is free")
        elif overtaken:
            staged.runner.give_back(reason="it is another user's turn", overtaken=True)

    @staticmethod
    def _is_overtaken(running: Held, staged: Held) -> bool:
        if running.claim.user_id != staged.claim.user_id or running.runner is None:
            return False
        return running.runner.run_seconds >= LONG_SECONDS and overtaking.is_overtaken(staged.claim)

    # -- stopping --------------------------------------------------------------------------------------
    def stop(self, *, drain_seconds: float) -> None:
        """Claim nothing more, requeue what is staged, let the run continue for `drain_seconds`. Does not
        wait."""
        self._stop_at = time.monotonic() + drain_seconds
        self._stopping.set()
        self._follow_ups.stop_delaying()
        with self._lock:
            runners = [held.runner for held in self._held.values() if held.runner is not None]
        for runner in runners:
            runner.stop(at=self._stop_at)

    def wait_idle(self, *, timeout: float) -> bool:
        """Wait until this worker is idle and may claim work; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.idle and self.may_claim, timeout)

    def wait_empty(self, *, timeout: float) -> bool:
        """Wait until no slot, collection or follow-up job is left; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(self._is_empty, timeout)

    def _is_busy(self) -> bool:
        return self._occupied > 0 or self._collecting > 0

    def _is_empty(self) -> bool:
        return not self._is_busy() and self._follow_ups.empty

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
