"""Waits for another process: a condition and a deadline, never a fixed sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(look: Callable[[], T | None], *, seconds: float = 30, what: str = "") -> T:
    """Call `look` until its result is true, and return that. AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:g} s for {what or look}; last seen: {seen!r}")
        time.sleep(0.03)
