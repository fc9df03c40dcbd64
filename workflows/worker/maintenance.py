"""The maintenance threads of a GPU worker: its lock, leases and heartbeat.

One dedicated connection holds the advisory lock that makes this process the only one to serve its backend,
listens for executions ended by other processes, and renews the leases. If that connection breaks, the lock is
lost, and nothing is claimed until it is reacquired. A duty that fails while the connection is alive costs
neither the lock nor the other duties. Sweeps have their own thread (`sweeps`).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from django.conf import settings
from django.db import IntegrityError, connection
from django.utils import timezone

from comfyserve.db import connections, pooling
from comfyserve.db.locks import AdvisoryLock
from comfyui import Unreachable
from comfyui.bridge import NoBridge
from workflows.fleet import registry
from workflows.presentation import selectors
from workflows.queue import claims, state_machine

from . import cleanup, gpus
from .held_claim import Held
from .slots import Slots

logger = logging.getLogger(__name__)

LEASE_STATEMENT_SECONDS, LEASE_LOCK_SECONDS = 3.0, 1.0  # timeouts on the lease connection
REFUSED_SECONDS = 30.0  # retry interval if a pooler shares our sessions
CONNECT_SECONDS = 0.5  # interval of checks for a new connection to ComfyUI
MEMORY_SECONDS = 10.0  # interval of memory checks
HANG_CHECK_SECONDS = 1.0  # interval of checks of a hung ComfyUI
CLEANUP_SECONDS = 60.0  # interval of sweeps of ComfyUI's folders
ORPHAN_SECONDS = 30.0  # interval of checks for our prompts in ComfyUI that no claim covers


class Maintenance:
    def __init__(self, slots: Slots, *, on_connect: Callable[[], None] = lambda: None) -> None:
        self._slots = slots
        self._on_connect = on_connect  # called when this worker may use its ComfyUI; must not block
        self._backend = slots.backend
        self._name = slots.backend.name
        self._stopping = threading.Event()
        self._sessions_checked = False
        self._started_at = timezone.now()
        self._running: tuple[Any, Any] = (None, None)  # (execution, since)
        self._due: dict[str, float] = {}
        self._reconnected = threading.Event()  # to ComfyUI: what it runs is unknown
        self._threads = [
            threading.Thread(target=self._run, name="maintenance", daemon=True),
            threading.Thread(target=self._watch_comfyui, name="watch", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Leases are renewed until this call: call it when the slots are empty."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=10)

    # -- main loop -------------------------------------------------------------------------------------
    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._check_sessions()
                with connections.kept():
                    self._run_with_lock()
            except pooling.SharedSessions as exc:
                logger.error("backend %s claims no work: %s", self._name, exc)
                self._stopping.wait(REFUSED_SECONDS)
            except (*connections.UNAVAILABLE, psycopg.Error) as exc:
                logger.warning("maintenance: the database is unavailable: %s", exc)
            except Exception:
                logger.exception("maintenance failed")
            finally:
                self._slots.claiming = False
                self._close_connection()
            self._stopping.wait(1.0)

    def _check_sessions(self) -> None:
        """Runs once: our lock and leases need a session that no pooler shares."""
        if not self._sessions_checked:
            pooling.check()
            self._sessions_checked = True

    def _run_with_lock(self) -> None:
        if not self._acquire_lock():
            logger.warning("another process serves backend %s; waiting for it to end", self._name)
            self._stopping.wait(2.0)
            return
        with connection.cursor() as cursor:
            cursor.execute(f"LISTEN {state_machine.ENDED_CHANNEL}")
            cursor.execute(f"LISTEN {registry.DESIRED_STATE_CHANNEL}")
        self._backend.connect()
        self._slots.apply_desired_state(registry.desired_state_of(self._name))  # before any work is claimed
        self._slots.assume_alive()
        self._due.clear()
        while not self._stopping.is_set():
            for notification in self._notifications(timeout=self._seconds_until_due()):
                self._handle_notification(notification)
            self._run_due_duties()
        registry.mark_stopped(name=self._name)

    def _acquire_lock(self) -> bool:
        """False: another process holds it."""
        with connection.cursor() as cursor:
            # If this host loses its network, PostgreSQL releases the lock within half a minute.
            cursor.execute(
                "SELECT set_config('tcp_keepalives_idle', '10', false),"
                " set_config('tcp_keepalives_interval', '5', false),"
                " set_config('tcp_keepalives_count', '3', false),"
                # Renewals are due every few seconds and must not wait for row locks of other sessions.
                " set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false)",
                [f"{LEASE_STATEMENT_SECONDS}s", f"{LEASE_LOCK_SECONDS}s"],
            )
            cursor.execute(
                "SELECT pg_try_advisory_lock(%s, hashtext(%s))", [AdvisoryLock.BACKEND, self._name]
            )
            return bool(cursor.fetchone()[0])

    @staticmethod
    def _close_connection() -> None:
        """Close the connection instead of returning it to the pool: this releases the lock and the LISTEN."""
        if connection.connection is not None:
            connection.connection.close()
        connection.close()

    def _notifications(self, *, timeout: float) -> Iterator[psycopg.Notify]:
        """Yield notifications as they arrive, until one was received or `timeout` seconds have passed."""
        yield from connection.connection.notifies(timeout=timeout, stop_after=1)

    def _handle_notification(self, notification: psycopg.Notify) -> None:
        """An execution was ended by another process, or an operator changed a worker's desired state."""
        if notification.channel == state_machine.ENDED_CHANNEL:
            self._slots.ended(notification.payload)
        elif notification.payload == self._name:
            self._due["heartbeat"] = self._due["poll"] = 0.0

    # -- calls that wait for ComfyUI -------------------------------------------------------------------
    def _watch_comfyui(self) -> None:
        """Runs in its own thread: ComfyUI may take longer to respond than a lease lasts."""
        memory_due = cleanup_due = hang_due = 0.0
        orphans_due = time.monotonic() + ORPHAN_SECONDS
        while not self._stopping.wait(CONNECT_SECONDS):
            try:
                if self._backend.refresh():
                    self._reconnected.set()
                if self._backend.hung and time.monotonic() >= hang_due:
                    hang_due = time.monotonic() + HANG_CHECK_SECONDS
                    if self._backend.check_hang():
                        self._slots.serve_in_thread()
                if self._backend.orphans.is_set() and self._backend.reachable:
                    self._backend.orphans.clear()  # first: later reports must not be lost
                    self._cancel_orphans()
                    cleanup_due = 0.0
                elif self._slots.claiming and time.monotonic() >= orphans_due:
                    # Also without a report: ComfyUI may accept a prompt long after its sender gave up.
                    orphans_due = time.monotonic() + ORPHAN_SECONDS
                    self._backend.cancel_orphan_prompts(but=self._backend.present)  # runners cancel theirs
                if time.monotonic() >= memory_due:
                    memory_due = time.monotonic() + MEMORY_SECONDS
                    self._backend.refresh_memory()
                if self._slots.claiming and self._backend.has_bridge and time.monotonic() >= cleanup_due:
                    cleanup_due = time.monotonic() + CLEANUP_SECONDS
                    cleanup.sweep(self._backend)
            except (Unreachable, NoBridge, *connections.UNAVAILABLE) as exc:
                logger.warning("backend %s: %s", self._name, exc)
            except Exception:
                logger.exception("watching backend %s failed", self._name)

    def _cancel_orphans(self) -> None:
        try:
            self._backend.cancel_orphan_prompts()
        except BaseException:
            self._backend.orphans.set()
            raise

    # -- periodic duties -------------------------------------------------------------------------------
    def _duties(self) -> list[tuple[str, float, Any]]:
        return [
            ("renew", settings.RENEW_SECONDS, self._renew),
            ("connect", CONNECT_SECONDS, self._resume_after_connect),
            ("heartbeat", settings.RENEW_SECONDS, self._heartbeat),
            ("poll", settings.LOOK_SECONDS, self._poll_queue),
        ]

    def _seconds_until_due(self) -> float:
        if self._stopping.is_set() or not self._due:
            return 0.0
        return max(0.0, min(self._due.values()) - time.monotonic())

    def _run_due_duties(self) -> None:
        for name, seconds, do in self._duties():
            if time.monotonic() >= self._due.get(name, 0.0):
                self._isolated(name, do)
                self._due[name] = time.monotonic() + seconds

    @staticmethod
    def _isolated(name: str, do: Callable[[], None]) -> None:
        """Isolate a duty: its failure must not stop others, nor cost the lock while the connection works."""
        try:
            do()
        except Exception as exc:
            if connection.connection is None or connection.connection.closed:
                raise
            if isinstance(exc, connections.UNAVAILABLE):
                logger.warning("maintenance: %s failed and is retried: %s", name, exc)
            else:
                logger.exception("maintenance: %s failed", name, extra={"action": "upkeep_duty_failed"})

    def _renew(self) -> None:
        tokens = self._slots.live_tokens()
        if tokens:
            self._slots.lost(tokens - claims.renew(tokens=tokens))

    def _resume_after_connect(self) -> None:
        """After ComfyUI was connected or reconnected: resume the runs left there and start claiming work."""
        if not self._backend.reachable or (self._slots.claiming and not self._reconnected.is_set()):
            return
        for claim in claims.adopt(worker=self._name, held=self._slots.tokens()):
            if not state_machine.fail_if_killed_worker(claim):
                self._slots.resume(claim)
        self._reconnected.clear()
        self._backend.orphans.set()
        self._slots.claiming = True
        self._on_connect()
        self._heartbeat()
        self._poll_queue()

    def _heartbeat(self) -> None:
        self._slots.apply_desired_state(registry.desired_state_of(self._name))
        try:
            self._write_heartbeat()
        except IntegrityError:
            # The worker was offline for so long that its node definitions were deleted.
            logger.warning("backend %s: reporting its node definitions again", self._name)
            self._backend.forget_capabilities()

    def _write_heartbeat(self) -> None:
        stats = self._backend.stats
        running, staged = self._slots.occupants()
        registry.record_heartbeat(
            name=self._name,
            state=self._slots.state,
            host=socket.gethostname(),
            pid=os.getpid(),
            url=self._backend.url,
            reachable=self._backend.reachable,
            comfyui_version=stats.version if stats else "",
            boot=self._backend.boot_id,
            devices=[vars(device) for device in stats.devices] if stats else [],
            gpus=gpus.figures(),
            ram_total=stats.ram_total if stats else None,
            ram_free=stats.ram_free if stats else None,
            object_info_id=self._backend.object_info_digest,
            started_at=self._started_at,
            idle=self._slots.may_claim and running is None and staged is None,
            **self._slot_columns(running, staged),
        )

    def _slot_columns(self, running: Held | None, staged: Held | None) -> dict[str, Any]:
        execution_id = running.claim.execution_id if running else None
        if self._running[0] != execution_id:
            self._running = (execution_id, timezone.now() if running else None)
        return {
            "running": execution_id,
            "running_since": self._running[1],
            "staged": staged.claim.execution_id if staged else None,
        }

    def _poll_queue(self) -> None:
        """A fallback for lost tickets: serves waiting work if a slot is free."""
        self._slots.reconsider_staged()
        if self._slots.free and self._slots.claiming and selectors.any_pending():
            self._slots.serve_in_thread()
