"""Concurrency limits for costly requests. Waiting requests hold no thread; too many of them are rejected."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager, nullcontext

from comfyserve.api.errors import Unavailable


class Lane:
    """At most `width` at once, at most `waiting` queued behind them, none of them for more than `seconds`.

    Of one account or client: one at once, so that it leaves the others of `width` free, and at most `each`,
    waiting ones included.
    """

    def __init__(self, name: str, *, width: int, waiting: int, seconds: float, each: int) -> None:
        self._name = name
        self.width = width
        self._limit = width + waiting
        self._each = each
        self._seconds = seconds
        self._inside = 0
        self._of: Counter[Hashable] = Counter()
        self._own: dict[Hashable, asyncio.Lock] = {}  # of those that are inside
        # A semaphore belongs to the loop that first awaits it; tests use several loops.
        self._semaphores: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def turn(self, who: Hashable = None) -> AsyncIterator[None]:
        """Raises Unavailable when the lane, or the share of `who`, is full, or no slot frees up in time."""
        if self._inside >= self._limit or (who is not None and self._of[who] >= self._each):
            raise self._full()
        self._inside += 1
        self._of[who] += 1
        own = self._own.setdefault(who, asyncio.Lock()) if who is not None else nullcontext()
        try:
            async with self._slot(own):
                yield
        finally:
            self._inside -= 1
            self._of[who] -= 1
            if not self._of[who]:
                del self._of[who]
                self._own.pop(who, None)

    @asynccontextmanager
    async def _slot(self, own: asyncio.Lock | nullcontext[None]) -> AsyncIterator[None]:
        waiting = asyncio.timeout(self._seconds)
        entered = False
        try:
            async with waiting, own, self._semaphore():
                waiting.reschedule(None)
                entered = True
                yield
        except TimeoutError:
            if entered:
                raise
            raise self._full() from None

    def _semaphore(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        if loop not in self._semaphores:
            self._semaphores = {loop: asyncio.Semaphore(self.width)}
        return self._semaphores[loop]

    def _full(self) -> Unavailable:
        return Unavailable(f"Too many requests with {self._name} at once; try again shortly")


# Parsing 10 MiB of JSON takes up to 100 MiB; one Argon2 hash takes 64 MiB and the processor.
LARGE_BODIES = Lane("large bodies", width=2, waiting=64, seconds=60.0, each=16)
PASSWORDS = Lane("passwords", width=2, waiting=100, seconds=20.0, each=40)
# Each holds a thread while the user's S3 server is slow.
DESTINATIONS = Lane("destinations to test", width=2, waiting=30, seconds=30.0, each=5)
# Building one takes up to 100 MiB, see `workflows.presentation.file_data`.
RESULTS_WITH_FILES = Lane("files in results", width=2, waiting=62, seconds=20.0, each=16)
