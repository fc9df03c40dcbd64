"""What follows the ends of a worker's executions: see `afterwards` for when.

Thumbnails wait longer than the rest while very short runs follow one another: making one takes about as much
processor time as such a run, and a request that comes earlier makes its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from comfyui import History
from workflows.models import Output
from workflows.queue.claims import Claim

from . import finalize
from .afterwards import Afterwards, Job
from .backend import Backend
from .cleanup import Leftovers

PAUSE_SECONDS = 0.25  # thumbnails wait for such a pause between two ends
MAX_THUMBNAIL_DELAY = 5.0  # seconds
MAX_THUMBNAIL_JOBS = 256  # waiting, one per execution


class FollowUps:
    """`add` and `recorded` may be called from any thread. `changed` is called after each job."""

    def __init__(self, backend: Backend, *, changed: Callable[[], None], busy: Callable[[], bool]) -> None:
        self._busy = busy
        self._ended_at = 0.0  # when the last end was recorded (monotonic seconds)
        self._leftovers = Leftovers(backend)
        self._soon = Afterwards(changed=changed, busy=busy)
        self._thumbnails = Afterwards(
            changed=changed,
            busy=self._runs_are_short,
            max_delay=MAX_THUMBNAIL_DELAY,
            max_waiting=MAX_THUMBNAIL_JOBS,
        )

    @property
    def empty(self) -> bool:
        return self._soon.empty and self._thumbnails.empty

    def add(self, job: Job, *, name: str = "") -> None:
        """See `Afterwards.add`."""
        self._soon.add(job, name=name)

    def recorded(self, claim: Claim, history: History, outputs: list[Output]) -> None:
        """The end is recorded: clear ComfyUI and make thumbnails, later."""
        self._ended_at = time.monotonic()
        self._leftovers.add(claim, history)
        self._soon.add(self._leftovers.delete, name="leftovers")
        self._thumbnails.add(lambda: finalize.make_thumbnails(outputs))

    def stop_delaying(self) -> None:
        """The worker is stopping."""
        self._soon.stop_delaying()
        self._thumbnails.stop_delaying()

    def _runs_are_short(self) -> bool:
        return self._busy() and time.monotonic() - self._ended_at < PAUSE_SECONDS
