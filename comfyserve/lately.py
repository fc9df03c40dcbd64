"""Answers that may be a moment old: asked for often, and dear."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lately(Generic[T]):
    """What `ask` answers, at most `seconds` old. Each process asks for itself."""

    def __init__(self, ask: Callable[[], T], *, seconds: float = 1.0) -> None:
        self._ask = ask
        self._seconds = seconds
        self._known: tuple[float, T] | None = None

    def __call__(self) -> T:
        known = self._known
        if known is None or time.monotonic() - known[0] > self._seconds:
            known = self._known = (time.monotonic(), self._ask())
        return known[1]

    def forget(self) -> None:
        """Ask anew at the next call."""
        self._known = None
