"""Caching of answers that may be slightly stale: requested often, and expensive."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakSet

T = TypeVar("T")
_all: WeakSet[TtlCache[Any]] = WeakSet()


class TtlCache(Generic[T]):
    """The result of `ask`, at most `seconds` old. Each process refreshes its own, and so does each thread
    that finds it expired; exceptions of `ask` are not cached."""

    def __init__(self, ask: Callable[[], T], *, seconds: float = 1.0) -> None:
        self._ask = ask
        self._seconds = seconds
        self._known: tuple[float, T] | None = None
        _all.add(self)

    def __call__(self) -> T:
        known = self._known
        if known is None or time.monotonic() - known[0] >= self._seconds:
            answer = self._ask()
            known = self._known = (time.monotonic(), answer)
        return known[1]

    def forget(self) -> None:
        """Refresh at the next call."""
        self._known = None


def forget_all() -> None:
    """Refresh every cache of this process at its next call, for tests."""
    for cache in _all:
        cache.forget()
