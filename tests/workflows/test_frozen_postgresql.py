"""PostgreSQL is frozen while its host is alive: no timeout of its own ends a statement."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction

from comfyserve.db import rows, sessions
from comfyserve.db.connections import UNAVAILABLE
from tests.workflows.test_pgbouncer import new_connection

POOL = {"min_size": 1, "max_size": 1, "timeout": 20.0}


@pytest.fixture
def session(db, monkeypatch) -> Iterator[Any]:
    """Answers are waited for as long as usual, except those to this first session."""
    with new_connection(monkeypatch, pool=POOL) as made:
        made.ensure_connection()
        made.connection.answer_seconds = 0.5
        yield made


@contextmanager
def frozen(session: Any) -> Iterator[None]:
    """The server process of this session."""
    pid = session.connection.info.backend_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_statement_ends(session):
    with frozen(session), pytest.raises(OperationalError, match="no answer"):
        session.cursor().execute("SELECT 1")
    assert session.connection.closed


def test_statements_sent_at_once_end(session):
    def both() -> None:
        with transaction.atomic(), rows.pipeline():
            rows.execute("SELECT 1", [])
            rows.execute("SELECT 2", [])

    with frozen(session), pytest.raises(UNAVAILABLE):
        both()


def test_the_next_one_gets_another_session(session):
    with frozen(session):
        with pytest.raises(OperationalError):
            session.cursor().execute("SELECT 1")
        session.close()
        with session.cursor() as cursor:
            cursor.execute("SELECT 2")
            assert cursor.fetchone() == (2,)


def test_postgresqls_own_timeout_comes_first(db, monkeypatch):
    with new_connection(monkeypatch, pool=POOL, options="-c statement_timeout=1s") as made:
        with pytest.raises(OperationalError, match="statement timeout"):
            made.cursor().execute("SELECT pg_sleep(20)")
        assert not made.connection.closed
        assert made.connection.answer_seconds == 1 + sessions.GRACE_SECONDS


def test_a_session_without_a_timeout_waits(db, monkeypatch):
    with new_connection(monkeypatch, pool=POOL, options="-c statement_timeout=0") as made:
        made.ensure_connection()
        assert made.connection.answer_seconds is None


def test_ordinary_sessions_have_the_limit(db):
    with connections["default"].cursor():
        assert connections["default"].connection.answer_seconds == 45
