"""Whether a pooler between us and PostgreSQL gives our sessions to others.

PgBouncer in transaction or statement mode does: session locks are then held by nobody or by everybody, LISTEN
hears nothing, and the timeouts of our sessions are lost. GPU workers refuse to work that way.
"""

from __future__ import annotations

from typing import Any

import psycopg
from django.conf import settings
from django.db import connection

TRIES = 3  # another client may take the server's session between two of our statements


class SharedSessions(Exception):
    """GPU workers need a direct connection, or a pooler in session mode."""


def check() -> None:
    """Raises SharedSessions where sessions are not ours alone, and psycopg's errors. Two connections, a few
    statements; for the start of a process."""
    parameters = {
        name: value for name, value in connection.get_connection_params().items() if name in CONNECTION
    }
    with (
        psycopg.connect(**parameters, autocommit=True) as one,
        psycopg.connect(**parameters, autocommit=True) as other,
    ):
        judge(one, other)


# What a connection is made with; the rest are Django's own options.
CONNECTION = (
    "dbname", "user", "password", "host", "port", "options", "connect_timeout", "sslmode", "sslrootcert",
    "sslcert", "sslkey", "service", "target_session_attrs",
)  # fmt: skip


def judge(one: psycopg.Connection[Any], other: psycopg.Connection[Any]) -> None:
    """Two clients that are connected at the same time never have one server process, unless it is shared."""
    if any(_process(one) == _process(other) for _ in range(TRIES)):
        raise SharedSessions(
            "A pooler shares PostgreSQL's sessions (PgBouncer in transaction mode?): give GPU workers a "
            "DATABASE_URL of PostgreSQL itself, or set pool_mode = session"
        )
    if _lock_timeout(one) == 0 and settings.DATABASE_LOCK_TIMEOUT_SECONDS:
        raise SharedSessions(
            "A pooler drops our sessions' settings (PgBouncer with ignore_startup_parameters = options?):"
            " give GPU workers a DATABASE_URL of PostgreSQL itself"
        )


def _process(session: psycopg.Connection[Any]) -> int:
    [(pid,)] = session.execute("SELECT pg_backend_pid()").fetchall()
    return int(pid)


def _lock_timeout(session: psycopg.Connection[Any]) -> int:
    [(milliseconds,)] = session.execute(
        "SELECT setting::int FROM pg_settings WHERE name = 'lock_timeout'"
    ).fetchall()
    return int(milliseconds)
