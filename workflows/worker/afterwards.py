"""Work that follows the end of an execution and that nobody waits for: clearing, thumbnails, corrections.

It is done a moment later, so that it does not compete for the processor with telling the end. Nothing here is
needed for an end to be complete: what a killed process leaves undone, the sweeps repair.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

logger = logging.getLogger(__name__)

DELAY_SECONDS = 0.05
MOST_WAITING = 32  # jobs; with more the caller does its own, so that work cannot pile up
Job = Callable[[], None]


class Afterwards:
    """Runs jobs one after the other in a thread of its own, each `delay` seconds after it was added
    (DELAY_SECONDS by default).

    changed: called after each job.
    """

    def __init__(self, *, changed: Callable[[], None] = lambda: None, delay: float | None = None) -> None:
        self._changed = changed
        self._delay = delay
        self._waiting: deque[tuple[float, Job]] = deque()  # with the time at which it is due
        self._running = 0
        self._condition = threading.Condition()
        self._at_once = False
        self._thread: threading.Thread | None = None

    @property
    def empty(self) -> bool:
        return not self._waiting and not self._running

    def add(self, job: Job) -> None:
        """Run the job later, or now in the caller's thread if too many wait. Its errors are logged."""
        with self._condition:
            later = len(self._waiting) < MOST_WAITING
            if later:
                delay = DELAY_SECONDS if self._delay is None else self._delay
                self._waiting.append((time.monotonic() + delay, job))
                self._start()
                if len(self._waiting) == 1:  # otherwise the thread waits for an earlier one
                    self._condition.notify()
        if not later:
            _run(job)

    def hurry(self) -> None:
        """Delay nothing any more: the worker stops."""
        with self._condition:
            self._at_once = True
            self._condition.notify()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._live, name="afterwards", daemon=True)
            self._thread.start()

    def _live(self) -> None:
        while True:
            job = self._next()
            _run(job)
            with self._condition:
                self._running = 0
            self._changed()

    def _next(self) -> Job:
        with self._condition:
            while True:
                left = self._waiting[0][0] - time.monotonic() if self._waiting else None
                if left is not None and (left <= 0 or self._at_once):
                    self._running = 1
                    return self._waiting.popleft()[1]
                self._condition.wait(left)


def _run(job: Job) -> None:
    try:
        job()
    except Exception:
        logger.exception("what follows the end of an execution failed")
