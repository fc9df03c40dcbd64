"""Detects a pooler between us and PostgreSQL that shares our sessions with other clients.

PgBouncer in transaction or statement mode does: session locks are then held by nobody or by everybody, LISTEN
hears nothing, and the timeouts of our sessions are lost. GPU workers refuse to work that way.
"""

from __future__ import annotations

import logging
from typing import Any

import psycopg
from django.conf import settings
from django.db import connection

from comfyserve.db import sessions

logger = logging.getLogger(__name__)

TRIES = 3  # another client may take the server's session between two of our statements


SHARES = (
    "A pooler shares PostgreSQL's sessions (PgBouncer in transaction mode?): use a DATABASE_URL of PostgreSQL"
    " itself, or set pool_mode = session"
)
DROPS = (
    "A pooler rejects or drops our sessions' settings (PgBouncer and the startup parameter `options`?): use a"
    " DATABASE_URL of PostgreSQL itself, or see docs/operations.md"
)


class SharedSessions(Exception):
    """GPU workers need a direct connection, or a pooler in session mode."""


def check() -> None:
    """Raises SharedSessions where sessions are not ours alone, and psycopg's errors. Two connections, a few
    statements; for the start of a process."""
    try:
        with (
            sessions.Connection.connect(**parameters(), autocommit=True) as one,
            sessions.Connection.connect(**parameters(), autocommit=True) as other,
        ):
            for session in (one, other):
                sessions.await_first_answer(session)
            judge(one, other)
    except psycopg.OperationalError as exc:
        if "unsupported startup parameter" in str(exc):
            raise SharedSessions(DROPS) from exc
        raise


def report() -> None:
    """Log an error if sessions are not ours alone, for processes that do not refuse to work: statements that
    are prepared once per session, and timeouts, may fail there. Never raises.
    """
    try:
        check()
    except SharedSessions as exc:
        logger.error("%s", exc, extra={"action": "sessions_shared"})
    except psycopg.Error as exc:
        logger.warning("it is not known whether a pooler shares our sessions: %s", exc)


def parameters() -> dict[str, Any]:
    """What psycopg needs to make a connection like Django's."""
    return {name: value for name, value in connection.get_connection_params().items() if name in CONNECTION}


# What a connection is made with; the rest are Django's own options.
CONNECTION = (
    "dbname", "user", "password", "host", "port", "options", "connect_timeout", "sslmode", "sslrootcert",
    "sslcert", "sslkey", "service", "target_session_attrs",
)  # fmt: skip


def judge(one: psycopg.Connection[Any], other: psycopg.Connection[Any]) -> None:
    """Two clients that are connected at the same time never have one server process, unless it is shared."""
    if any(_process(one) == _process(other) for _ in range(TRIES)):
        raise SharedSessions(SHARES)
    if _lock_timeout(one) == 0 and settings.DATABASE_LOCK_TIMEOUT_SECONDS:
        raise SharedSessions(DROPS)


def _process(session: psycopg.Connection[Any]) -> int:
    [(pid,)] = session.execute("SELECT pg_backend_pid()").fetchall()
    return int(pid)


def _lock_timeout(session: psycopg.Connection[Any]) -> int:
    [(milliseconds,)] = session.execute(
        "SELECT setting::int FROM pg_settings WHERE name = 'lock_timeout'"
    ).fetchall()
    return int(milliseconds)
