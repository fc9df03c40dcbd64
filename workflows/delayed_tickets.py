"""Sends Celery messages after a short delay, outside of the request that caused them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

TICKET_DELAY = 0.02  # seconds for an idle worker to take the wake-up before a Celery message is sent
# Seconds between the messages to a queue, at least. While all workers are busy each submission would send
# one, although a worker can only stage the next execution, which it also does whenever a run ends.
SPACING = 0.1
IDLE_THREAD_SECONDS = 60.0  # the thread exits after being idle this long


class DelayedTickets:
    """Calls `send` with each queue that was added: after TICKET_DELAY, and at most once per SPACING for all
    additions meanwhile.

    `send` runs in a separate thread and must not raise.
    """

    def __init__(self, send: Callable[[str], None]) -> None:
        self._send_one = send
        self._queues: set[str] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, queue: str) -> None:
        with self._changed:
            self._queues.add(queue)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._send, name="tickets", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _send(self) -> None:
        sent_at = 0.0
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._queues, timeout=IDLE_THREAD_SECONDS):
                    self._thread = None
                    return
            time.sleep(max(TICKET_DELAY, sent_at + SPACING - time.monotonic()))
            with self._changed:
                queues, self._queues = self._queues, set()
            for queue in queues:
                self._send_one(queue)
            sent_at = time.monotonic()
