"""PostgreSQL from long-lived threads: return connections to the pool, and survive a server restart."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from django.db import InterfaceError, OperationalError, close_old_connections, connection, transaction
from psycopg.errors import ReadOnlySqlTransaction

from comfyserve import outages

logger = logging.getLogger(__name__)

T = TypeVar("T")
# Temporary database failures: unavailable, restarting, read-only during a failover, out of connections or
# disk, terminating sessions, or blocked by another session (timeouts, deadlocks). The backend
# (`comfyserve.db.postgresql.base`) maps the codes that psycopg classifies differently, so that this is the
# only definition.
UNAVAILABLE = (OperationalError, InterfaceError)
FIRST_DELAY, LONGEST_DELAY = 0.2, 5.0  # seconds
LONGEST_OUTAGE = 3600.0  # seconds that `retry_until_available` keeps retrying


_thread = threading.local()


@contextmanager
def kept() -> Iterator[None]:
    """Keep this thread's connection until the end of the block: steps do not return it to the pool.

    For state that belongs to a connection, such as advisory locks and LISTEN.
    """
    _thread.keeps = True
    try:
        yield
    finally:
        _thread.keeps = False


def _return_connection() -> None:
    if not getattr(_thread, "keeps", False):
        close_old_connections()


@contextmanager
def step() -> Iterator[None]:
    """A database step in a long-lived thread: its connection returns to the pool afterwards."""
    _return_connection()
    try:
        yield
    except UNAVAILABLE:
        prune_broken_connections()
        raise
    finally:
        _return_connection()


def prune_broken_connections() -> None:
    """After an error: if this thread's connection is broken, discard the broken ones in the pool as well.

    A server restart breaks them all, and each would fail one more request. Checking each connection on every
    checkout would cost a round trip. A connection to a server that became read-only is discarded too: the
    next one may reach the new primary.
    """
    if connection.connection is not None and _is_read_only(sys.exception()):
        connection.connection.close()
    broken = connection.connection is not None and connection.connection.closed
    pool = getattr(connection, "pool", None)
    if broken and pool is not None:
        pool.check()


def _is_read_only(error: BaseException | None) -> bool:
    return error is not None and isinstance(error.__cause__, ReadOnlySqlTransaction)


def release() -> None:
    """Return this thread's connection before a long operation. Inside a transaction (a test's) it is kept."""
    if not connection.in_atomic_block:
        close_old_connections()


def sanitize_json(value: Any) -> Any:
    """External JSON made acceptable to PostgreSQL: without NUL, lone surrogates, infinity and NaN."""
    match value:
        case str():
            return value.replace("\0", "").encode(errors="replace").decode()
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {sanitize_json(key): sanitize_json(each) for key, each in value.items()}
        case list():
            return [sanitize_json(each) for each in value]
    return value


@contextmanager
def async_commit() -> Iterator[None]:
    """A transaction that does not wait for the WAL flush. For data that may be lost, but never partially.

    If the database host crashes, up to half a second of such transactions may be lost. A later synchronous
    commit makes all earlier ones durable as well.
    """
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL synchronous_commit TO off")
        yield


def retry_until_available(
    do: Callable[[], T],
    *,
    stop: threading.Event | None = None,
    give_up: Callable[[], bool] = lambda: False,
) -> T:
    """Call `do`, retrying while the database is unavailable. `do` must be safe to repeat, as a fenced update
    is.

    Raises the last error when `stop` is set, when `give_up` returns true, and after LONGEST_OUTAGE.
    """
    stop = stop or threading.Event()
    backoff = outages.Backoff(FIRST_DELAY, LONGEST_DELAY)
    until = time.monotonic() + LONGEST_OUTAGE
    while True:
        try:
            with step():
                return do()
        except UNAVAILABLE as exc:
            if stop.is_set() or give_up() or time.monotonic() >= until:
                raise
            delay = backoff.next()
            logger.warning("the database is unavailable, retrying in %.1f s: %s", delay, exc)
            stop.wait(delay)
