"""Runs checks that may hang, without blocking the caller.

Each check runs in a thread of its own with a time limit. A hanging one is not started again before it has
returned, so it costs one thread, however often it is requested.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from typing import Generic, TypeVar

from comfyserve.ttl_cache import TtlCache

T = TypeVar("T")


class NoAnswer(Exception):
    """The check did not finish within its limit."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"No response within {seconds:g} s")


class Probe(Generic[T]):
    """`ask` in time, or NoAnswer; what the check raises is raised."""

    def __init__(self, name: str, check: Callable[[], T], *, limit: float) -> None:
        """`limit`: seconds."""
        self.name = name
        self.limit = limit
        self._check = check
        self._lock = threading.Lock()
        self._current: Future[T] | None = None

    def begin(self) -> Future[T]:
        with self._lock:
            if self._current is None or self._current.done():
                self._current = Future()
                threading.Thread(
                    target=self._run, args=(self._current,), name=f"probe {self.name}", daemon=True
                ).start()
            return self._current

    def _run(self, future: Future[T]) -> None:
        try:
            future.set_result(self._check())
        except BaseException as exc:  # noqa: BLE001  (raised to the caller)
            future.set_exception(exc)

    def ask(self, *, begun: Future[T] | None = None, since: float | None = None) -> T:
        """Wait for a running check (started at `since`, monotonic), or start one."""
        future = begun or self.begin()
        left = self.limit - (time.monotonic() - since if since is not None else 0.0)
        try:
            return future.result(timeout=max(0.0, left))
        except NotYet:
            if future.done():  # the check itself raised a TimeoutError
                raise
            raise NoAnswer(self.limit) from None


class Shared(Generic[T]):
    """A result, or a failure, shared by all callers: computed at most once per `seconds`."""

    def __init__(self, make: Callable[[], T], *, seconds: float = 1.0) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._cached = TtlCache(self._compute, seconds=seconds)

    def get(self) -> T:
        """What `make` returns or raises."""
        with self._lock:
            return self._cached().result()

    def _compute(self) -> Future[T]:
        made: Future[T] = Future()
        try:
            made.set_result(self._make())
        except Exception as exc:  # noqa: BLE001  (raised to each caller)
            made.set_exception(exc)
        return made
