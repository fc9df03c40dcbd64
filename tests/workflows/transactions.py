"""Transactions on several connections at once, one of which may wait for another."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import Any, TypeVar

from django.db import connection, transaction

T = TypeVar("T")

LOOK_SECONDS = 0.05  # without an answer for so long, PostgreSQL is asked whether it waits for the other
ANSWER_SECONDS = 60  # on a busy machine


class Connection:
    """A thread with a connection of its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._open: Any = None
        self._pid = 0  # of the session that does it

    def begin(self, do: Callable[[], T]) -> T:
        """Do it in a transaction that stays open until `end`."""

        def work() -> T:
            self._open = transaction.atomic()
            self._open.__enter__()
            return do()

        return self._thread.submit(work).result(ANSWER_SECONDS)

    def end(self, *, commit: bool) -> None:
        def work() -> None:
            transaction.set_rollback(not commit)
            self._open.__exit__(None, None, None)
            self._open = None

        self._thread.submit(work).result(ANSWER_SECONDS)

    def do(self, do: Callable[[], T], *, if_blocked: Callable[[], None]) -> T:
        def work() -> T:
            connection.ensure_connection()
            self._pid = connection.connection.info.backend_pid
            return do()

        future = self._thread.submit(work)
        until = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < until:
            try:
                return future.result(LOOK_SECONDS)
            except NotYet:
                if self._is_blocked():
                    if_blocked()
        raise AssertionError("it neither ends nor waits for the other transaction")

    def _is_blocked(self) -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", [self._pid])
            return bool(cursor.fetchone()[0])

    def close(self) -> None:
        self._thread.submit(lambda: connection.close()).result(ANSWER_SECONDS)
        self._thread.shutdown()
