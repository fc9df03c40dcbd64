"""Answers that may be a moment old: asked for often, and dear."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class TtlCache(Generic[T]):
    """What `ask` answered at most `seconds` ago. Each process asks for itself, and so does each thread that
    finds it older; what `ask` raises is not kept."""

    def __init__(self, ask: Callable[[], T], *, seconds: float = 1.0) -> None:
        self._ask = ask
        self._seconds = seconds
        self._known: tuple[float, T] | None = None

    def __call__(self) -> T:
        known = self._known
        if known is None or time.monotonic() - known[0] >= self._seconds:
            answer = self._ask()
            known = self._known = (time.monotonic(), answer)
        return known[1]

    def forget(self) -> None:
        """Ask anew at the next call."""
        self._known = None
