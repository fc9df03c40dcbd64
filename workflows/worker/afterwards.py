"""Work that follows the end of an execution and that no request waits for: cleanup, thumbnails, corrections.

It runs with a short delay, so that it does not compete for the processor with publishing the end. An end is
complete without it: the sweeps repair what a killed process leaves undone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

logger = logging.getLogger(__name__)

DELAY_SECONDS = 0.05
MAX_WAITING = 32  # jobs; beyond that the caller runs its own, so that work cannot pile up
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
            later = len(self._waiting) < MAX_WAITING
            if later:
                delay = DELAY_SECONDS if self._delay is None else self._delay
                self._waiting.append((time.monotonic() + delay, job))
                self._start()
                if len(self._waiting) == 1:  # otherwise the thread waits for an earlier one
                    self._condition.notify()
        if not later:
            _run(job)

    def stop_delaying(self) -> None:
        """Run jobs without delay from now on: the worker is stopping."""
        with self._condition:
            self._at_once = True
            self._condition.notify()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run_forever, name="afterwards", daemon=True)
            self._thread.start()

    def _run_forever(self) -> None:
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
