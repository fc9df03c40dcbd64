"""PostgreSQL from long-lived threads: give connections back, and outlast a restart of the server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from django.db import InterfaceError, OperationalError, close_old_connections

logger = logging.getLogger(__name__)

T = TypeVar("T")
AWAY = (OperationalError, InterfaceError)
FIRST_DELAY, LONGEST_DELAY = 0.2, 5.0  # seconds


@contextmanager
def step() -> Iterator[None]:
    """A database step of a thread that lives on: its connection goes back to the pool afterwards."""
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


def patiently(do: Callable[[], T], *, stop: threading.Event | None = None) -> T:
    """Do it, again while the database is away. `do` must be safe to repeat: a fenced update is.

    Raises the last error only when `stop` is set.
    """
    stop = stop or threading.Event()
    delay = FIRST_DELAY
    while True:
        try:
            with step():
                return do()
        except AWAY as exc:
            if stop.is_set():
                raise
            logger.warning("the database is away, trying again in %.1f s: %s", delay, exc)
            stop.wait(delay)
            delay = min(delay * 2, LONGEST_DELAY)
