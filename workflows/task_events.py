"""Executions as Celery's monitors see them: the task events behind Flower and `celery events`.

Every state change of an execution is recorded here after its commit, and sent by a background thread with
Celery's own event dispatcher: the task's UUID is the execution's id. Recording is an append to a bounded
queue and never blocks. Events may be lost (full queue, Redis down, killed process): PostgreSQL remains the
queue of record, and nothing reads these events back.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from celery.events import EventDispatcher
from django.conf import settings

from comfyserve import outages, tickets
from comfyserve.celery import app
from comfyserve.db import connections
from workflows.models import Worker

logger = logging.getLogger(__name__)

TASK = "workflows.execution"
# Celery has no event without a worker: this node name stands for the queue if no worker had it.
QUEUE_NODE = "queue@postgresql"
MAX_WAITING = 10_000  # events; more are dropped
BATCH_SECONDS = 0.25  # events of this period are sent in one message
LEAST_RUNTIME = 0.001  # seconds; Flower leaves out a runtime of zero
FLUSH_SECONDS = 1.0  # at process exit

Fields = dict[str, Any]


# -- what happened ---------------------------------------------------------------------------------------
def describe(*, user: str, priority: str, models: Sequence[str]) -> Fields:
    """What monitors show of an execution. Without the prompt, which is private to its user."""
    arguments = {"user": user, "priority": str(priority), "models": list(models)}
    return {"args": "()", "kwargs": repr(arguments)}


def sent(execution_id: UUID, *, description: Fields) -> None:
    """It is waiting in the queue."""
    _publisher.record("task-sent", execution_id, description | {"queue": "gpu", "retries": 0})


def received(execution_id: UUID, *, worker: str, attempt: int, description: Fields) -> None:
    """A worker has claimed it; `attempt` counts from 1."""
    _publisher.record("task-received", execution_id, description | {"retries": attempt - 1}, worker)


def started(execution_id: UUID, *, worker: str) -> None:
    """ComfyUI has started it."""
    _publisher.record("task-started", execution_id, {}, worker)


def succeeded(execution_id: UUID, *, worker: str, runtime: float | None, outputs: int) -> None:
    """`runtime` in seconds on the GPU."""
    result = f"{outputs} output{'' if outputs == 1 else 's'}"
    # the reason an earlier attempt was retried no longer applies
    fields = {
        "result": result,
        "runtime": max(runtime or 0.0, LEAST_RUNTIME),
        "exception": None,
        "traceback": None,
    }
    _publisher.record("task-succeeded", execution_id, fields, worker)


def failed(execution_id: UUID, *, worker: str, error: str | None, runtime: float | None = None) -> None:
    """`error` as shown to its user."""
    fields: Fields = {"exception": error or "", "traceback": None}
    _publisher.record("task-failed", execution_id, fields | {"runtime": runtime}, worker)


def retried(execution_id: UUID, *, worker: str, reason: str, begun: bool) -> None:
    """It is back in the queue; `begun` if ComfyUI had started it."""
    fields = {"exception": reason, "traceback": None, "begun": begun}
    _publisher.record("task-retried", execution_id, fields, worker)


def revoked(execution_id: UUID, *, worker: str, terminated: bool) -> None:
    """Cancelled; `terminated` if a worker had claimed it."""
    fields = {"terminated": terminated, "signum": None, "expired": False}
    _publisher.record("task-revoked", execution_id, fields, worker)


# -- who has it ------------------------------------------------------------------------------------------
def serve_as(*, worker: str, hostname: str) -> None:
    """Declare this process the Celery worker `hostname`, which serves the backend `worker`."""
    _publisher.hostnames[worker] = hostname


def hostname_here(worker: str) -> str:
    """The hostname of this process's Celery worker, for its own backend; "" if it is none."""
    return _publisher.hostnames.get(worker, "")


def close() -> None:
    """Send queued events, at process exit."""
    _publisher.close()


class Publisher:
    """The event queue and the thread that sends it, started with the first event."""

    def __init__(self) -> None:
        self.hostnames: dict[str, str] = {"": QUEUE_NODE}  # Celery's dispatchers in this process, by backend
        self._client = ""
        self._events: queue.Queue[tuple[str, str, Fields]] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closing = threading.Event()
        self._dispatcher: EventDispatcher | None = None

    def record(self, type_: str, execution_id: UUID, fields: Fields, worker: str = "") -> None:
        """Never blocks and never raises; drops the event if the queue is full."""
        event = fields | {"uuid": str(execution_id), "name": TASK, "timestamp": time.time()}
        try:
            self._events.put_nowait((type_, worker, event))
        except queue.Full:
            return
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="task-events", daemon=True)
                self._thread.start()
                atexit.register(self.close)

    def close(self) -> None:
        """Send queued events, for FLUSH_SECONDS at most."""
        self._closing.set()
        if self._thread is not None:
            self._events.put(("", "", {}), timeout=FLUSH_SECONDS)  # wakes the thread
            self._thread.join(timeout=FLUSH_SECONDS)

    def _run(self) -> None:
        while not (self._closing.is_set() and self._events.empty()):
            batch = [self._events.get()]
            self._closing.wait(BATCH_SECONDS)
            while not self._events.empty():
                batch.append(self._events.get_nowait())
            try:
                self._send([event for event in batch if event[0]])
            except Exception:
                logger.exception("task events not sent")

    def _send(self, batch: list[tuple[str, str, Fields]]) -> None:
        if not batch or outages.redis.open:
            return
        try:
            if self._dispatcher is None:
                self._dispatcher = self._connect()
            for type_, worker, fields in batch:
                if type_ == "task-sent":
                    self._dispatcher.hostname = self._client
                else:
                    self._dispatcher.hostname = self._hostname(worker)
                self._dispatcher.send(type_, **fields)
            self._dispatcher.flush()
        except outages.REDIS as exc:
            self._dispatcher = None
            outages.redis.trip("task events not sent", exc)

    def _connect(self) -> EventDispatcher:
        dispatcher = EventDispatcher(
            tickets.connection_to(settings.CELERY_BROKER_URL),
            app=app,
            buffer_group=["task"],
            buffer_limit=MAX_WAITING,
            buffer_while_offline=False,
        )
        self._client = dispatcher.hostname
        return dispatcher

    def _hostname(self, worker: str) -> str:
        """The Celery worker that serves this backend: known in its own process, else read from its row."""
        if worker in self.hostnames:
            return self.hostnames[worker]
        try:
            with connections.step():
                host = Worker.objects.filter(name=worker).values_list("host", flat=True).first()
        except connections.UNAVAILABLE:
            host = None
        return f"gpu-{worker}@{host}" if host else QUEUE_NODE


_publisher = Publisher()
