"""Bounds the wait for a new session's first answer.

A pooler accepts a login before it has a session of PostgreSQL to give. The first statement then waits for as
long as the pooler likes (PgBouncer: two minutes), and PostgreSQL's own timeouts do not apply to it.
"""

from __future__ import annotations

import selectors
import time
from typing import Any

import psycopg
from psycopg.pq.abc import PGconn

FIRST_ANSWER_SECONDS = 5.0
NO_SESSION = (
    "no free session for {seconds:g} s: the login was accepted, but the first statement got no answer."
    " A pooler (PgBouncer?) has fewer sessions than its clients need: see docs/operations.md"
)


def await_first_answer(connection: psycopg.Connection[Any]) -> None:
    """Close the connection and raise OperationalError unless the server answers in time.

    One round trip, for a connection that was just opened.
    """
    pgconn, until = connection.pgconn, time.monotonic() + FIRST_ANSWER_SECONDS
    pgconn.send_query(b"")  # an empty statement needs a session too
    result: object = pgconn
    while result is not None:
        while pgconn.flush() or pgconn.is_busy():
            if not _readable(pgconn, seconds=until - time.monotonic()):
                connection.close()
                raise psycopg.OperationalError(NO_SESSION.format(seconds=FIRST_ANSWER_SECONDS))
            pgconn.consume_input()
        result = pgconn.get_result()


def _readable(pgconn: PGconn, *, seconds: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(pgconn.socket, selectors.EVENT_READ)
        return bool(selector.select(max(0.0, seconds)))
