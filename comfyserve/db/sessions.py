"""PostgreSQL connections whose waits end, also where PostgreSQL's own timeouts do not apply.

A pooler accepts a login before it has a session of PostgreSQL to give: the first statement then waits for as
long as the pooler likes (PgBouncer: two minutes). And a server that is frozen while its host is alive
(SIGSTOP, a disk that hangs) cancels no statement, though its kernel still acknowledges what we send.
"""

from __future__ import annotations

import selectors
import time
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

T = TypeVar("T")

FIRST_ANSWER_SECONDS = 5.0
GRACE_SECONDS = 15.0  # beyond the session's statement_timeout, for PostgreSQL's own error to arrive first
_STATEMENT_TIMEOUT = b"SELECT extract(epoch FROM current_setting('statement_timeout')::interval)"
NO_SESSION = (
    "no free session for {seconds:g} s: the login was accepted, but the first statement got no answer."
    " A pooler (PgBouncer?) has fewer sessions than its clients need: see docs/operations.md"
)
NO_ANSWER = "no answer for {seconds:g} s, longer than statement_timeout allows: is PostgreSQL frozen?"


class Connection(psycopg.Connection[Any]):
    """Closes itself and raises OperationalError if the server does not answer within its statement_timeout
    and GRACE_SECONDS. `await_first_answer` sets the limit."""

    answer_seconds: float | None = None  # None: no limit, as for migrations

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        if timeout is not None or self.answer_seconds is None:
            return super().wait(gen, interval, timeout)
        until = time.monotonic() + self.answer_seconds
        try:
            return super().wait(gen, interval, self.answer_seconds)
        except psycopg.OperationalError as exc:
            if time.monotonic() < until:
                raise
            self.close()  # the answer may still come, and would be taken for that to a later statement
            raise psycopg.OperationalError(NO_ANSWER.format(seconds=self.answer_seconds)) from exc


def await_first_answer(connection: psycopg.Connection[Any]) -> None:
    """Close the connection and raise OperationalError unless the server answers in time; then bound its
    later waits by its statement_timeout.

    One round trip, for a connection that was just opened or whose statement_timeout has changed.
    """
    pgconn, until = connection.pgconn, time.monotonic() + FIRST_ANSWER_SECONDS
    pgconn.send_query(_STATEMENT_TIMEOUT)
    result: PGresult | PGconn | None = pgconn
    while result is not None:
        while pgconn.flush() or pgconn.is_busy():
            if not _readable(pgconn, seconds=until - time.monotonic()):
                connection.close()
                raise psycopg.OperationalError(NO_SESSION.format(seconds=FIRST_ANSWER_SECONDS))
            pgconn.consume_input()
        result = pgconn.get_result()
        if isinstance(connection, Connection) and result and result.status == ExecStatus.TUPLES_OK:
            seconds = float(result.get_value(0, 0) or 0)
            connection.answer_seconds = seconds + GRACE_SECONDS if seconds else None


def _readable(pgconn: PGconn, *, seconds: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(pgconn.socket, selectors.EVENT_READ)
        return bool(selector.select(max(0.0, seconds)))
