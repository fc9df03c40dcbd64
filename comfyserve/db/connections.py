"""PostgreSQL from long-lived threads: give connections back, and outlast a restart of the server."""

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

logger = logging.getLogger(__name__)

T = TypeVar("T")
# The database cannot do it now: away, restarting, read-only in a failover, out of connections or disk, ending
# sessions, or another session is in the way (time-outs, deadlocks). The backend translates what PostgreSQL
# files elsewhere (`comfyserve.db.postgresql.base`), so that this is the one definition.
UNAVAILABLE = (OperationalError, InterfaceError)
FIRST_DELAY, LONGEST_DELAY = 0.2, 5.0  # seconds
LONGEST_OUTAGE = 3600.0  # seconds that `retry_until_available` outlasts


_thread = threading.local()


@contextmanager
def kept() -> Iterator[None]:
    """This thread's connection is its own until the end of the block: steps do not give it back.

    For what belongs to a connection, such as advisory locks and LISTEN.
    """
    _thread.keeps = True
    try:
        yield
    finally:
        _thread.keeps = False


def _give_back() -> None:
    if not getattr(_thread, "keeps", False):
        close_old_connections()


@contextmanager
def step() -> Iterator[None]:
    """A database step of a thread that lives on: its connection goes back to the pool afterwards."""
    _give_back()
    try:
        yield
    except UNAVAILABLE:
        prune_broken_connections()
        raise
    finally:
        _give_back()


def prune_broken_connections() -> None:
    """After an error: if this thread's connection broke, throw out the pool's that broke with it.

    A server that restarts breaks them all, and each would fail one more request. To ask each at every use
    would cost a round trip. A connection to a server that became read-only is thrown out too: the next one
    may reach the new primary.
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
    """Give this thread's connection back before something long. In a transaction (a test's) it stays."""
    if not connection.in_atomic_block:
        close_old_connections()


def sanitize_json(value: Any) -> Any:
    """JSON from elsewhere as PostgreSQL takes it: without NUL, lone surrogates, infinity and NaN."""
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
    """A transaction that does not wait for the disk. For what may be forgotten, never half done.

    If the database's machine dies, the last half second of such transactions may be lost. One that waits,
    such as the next ordinary one, makes all earlier ones safe as well.
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
    """Do it, again while the database is unavailable. `do` must be safe to repeat: a fenced update is.

    Raises the last error when `stop` is set, when `give_up` says so, and after LONGEST_OUTAGE.
    """
    stop = stop or threading.Event()
    delay = FIRST_DELAY
    until = time.monotonic() + LONGEST_OUTAGE
    while True:
        try:
            with step():
                return do()
        except UNAVAILABLE as exc:
            if stop.is_set() or give_up() or time.monotonic() >= until:
                raise
            logger.warning("the database is unavailable, trying again in %.1f s: %s", delay, exc)
            stop.wait(delay)
            delay = min(delay * 2, LONGEST_DELAY)
