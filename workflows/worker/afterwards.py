"""Work that follows the end of an execution and that no request waits for: cleanup, thumbnails, corrections.

It runs with a short delay, so that it does not delay the answer to a waiting client or the next execution. An
end is complete without it: the sweeps repair what a killed process leaves undone, and a request for a
thumbnail makes its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

DELAY_SECONDS = 0.05  # after the last job was added
MAX_DELAY_SECONDS = 0.5  # while executions follow one another
MAX_WAITING = 32  # jobs; beyond that the caller runs its own, so that work cannot pile up
Job = Callable[[], None]


@dataclass(frozen=True)
class _Waiting:
    job: Job
    name: str
    added_at: float


class Afterwards:
    """Runs jobs one after the other in a thread of its own, in the order in which they were added.

    A job runs DELAY_SECONDS after the last one was added, unless `busy` returns true, but not later than
    `max_delay` (MAX_DELAY_SECONDS) after it was added itself. With `delay`, each runs exactly that many
    seconds later. At most `max_waiting` (MAX_WAITING) jobs wait.

    changed: called after each job.
    """

    def __init__(
        self,
        *,
        changed: Callable[[], None] = lambda: None,
        busy: Callable[[], bool] = lambda: False,
        delay: float | None = None,
        max_delay: float | None = None,
        max_waiting: int | None = None,
    ) -> None:
        self._changed = changed
        self._busy = busy
        self._delay = delay
        self._max_delay = MAX_DELAY_SECONDS if max_delay is None else max_delay
        self._max_waiting = MAX_WAITING if max_waiting is None else max_waiting
        self._waiting: deque[_Waiting] = deque()
        self._added_at = 0.0  # the last time
        self._running = 0
        self._condition = threading.Condition()
        self._at_once = False
        self._thread: threading.Thread | None = None

    @property
    def empty(self) -> bool:
        return not self._waiting and not self._running

    def add(self, job: Job, *, name: str = "") -> None:
        """Run the job later, or now in the caller's thread if too many wait. Its errors are logged.

        name: if a job of this name waits already, that one serves for both.
        """
        with self._condition:
            self._added_at = time.monotonic()
            if name and any(name == each.name for each in self._waiting):
                return
            later = len(self._waiting) < self._max_waiting
            if later:
                self._waiting.append(_Waiting(job, name, self._added_at))
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
                left = self._seconds_left() if self._waiting else None
                if left is not None and (left <= 0 or self._at_once):
                    self._running = 1
                    return self._waiting.popleft().job
                self._condition.wait(left)

    def _seconds_left(self) -> float:
        """How long to wait before the first job, or before asking again."""
        now, added_at = time.monotonic(), self._waiting[0].added_at
        if self._delay is not None:
            return added_at + self._delay - now
        calm_since = now if self._busy() else self._added_at
        return min(calm_since + DELAY_SECONDS, added_at + self._max_delay) - now


def _run(job: Job) -> None:
    try:
        job()
    except Exception:
        logger.exception("what follows the end of an execution failed")
