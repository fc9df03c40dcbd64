"""Concurrency limits for costly requests. Waiting requests hold no thread; too many of them are rejected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from comfyserve.api.errors import Unavailable


class Lane:
    """At most `width` at once, at most `waiting` queued behind them, none of them for more than `seconds`."""

    def __init__(self, name: str, *, width: int, waiting: int, seconds: float) -> None:
        self._name = name
        self._width = width
        self._limit = width + waiting
        self._seconds = seconds
        self._inside = 0
        # A semaphore belongs to the loop that first awaits it; tests use several loops.
        self._semaphores: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Raises Unavailable when the lane is full or no slot frees up in time."""
        if self._inside >= self._limit:
            raise self._full()
        self._inside += 1
        try:
            semaphore = self._semaphore()
            try:
                async with asyncio.timeout(self._seconds):
                    await semaphore.acquire()
            except TimeoutError:
                raise self._full() from None
            try:
                yield
            finally:
                semaphore.release()
        finally:
            self._inside -= 1

    def _semaphore(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        if loop not in self._semaphores:
            self._semaphores = {loop: asyncio.Semaphore(self._width)}
        return self._semaphores[loop]

    def _full(self) -> Unavailable:
        return Unavailable(f"Too many requests with {self._name} at once; try again shortly")


# Parsing 10 MiB of JSON takes up to 100 MiB; one Argon2 hash takes 64 MiB and the processor.
LARGE_BODIES = Lane("large bodies", width=2, waiting=64, seconds=60.0)
PASSWORDS = Lane("passwords", width=2, waiting=100, seconds=20.0)
