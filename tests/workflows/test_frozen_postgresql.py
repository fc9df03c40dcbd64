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

SECOND = "-c statement_timeout=1s"


@pytest.fixture
def session(db, monkeypatch) -> Iterator[Any]:
    monkeypatch.setattr(sessions, "GRACE_SECONDS", 0.2)
    pool = {"min_size": 1, "max_size": 1, "timeout": 5.0}
    with new_connection(monkeypatch, pool=pool, options=SECOND) as made:
        made.ensure_connection()
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


@pytest.mark.timeout(30)
def test_a_statement_ends(session):
    with frozen(session), pytest.raises(OperationalError, match="no answer"):
        session.cursor().execute("SELECT 1")
    assert session.connection.closed


@pytest.mark.timeout(30)
def test_statements_sent_at_once_end(session):
    def both() -> None:
        with transaction.atomic(), rows.pipeline():
            rows.execute("SELECT 1", [])
            rows.execute("SELECT 2", [])

    with frozen(session), pytest.raises(UNAVAILABLE):
        both()


@pytest.mark.timeout(30)
def test_the_next_one_gets_another_session(session):
    with frozen(session):
        with pytest.raises(OperationalError):
            session.cursor().execute("SELECT 1")
        session.close()
        with session.cursor() as cursor:
            cursor.execute("SELECT 2")
            assert cursor.fetchone() == (2,)


@pytest.mark.timeout(30)
def test_postgresqls_own_timeout_comes_first(session):
    with pytest.raises(OperationalError, match="statement timeout"):
        session.cursor().execute("SELECT pg_sleep(20)")
    assert not session.connection.closed


def test_a_session_without_a_timeout_waits(db, monkeypatch):
    pool = {"min_size": 1, "max_size": 1, "timeout": 5.0}
    with new_connection(monkeypatch, pool=pool, options="-c statement_timeout=0") as made:
        made.ensure_connection()
        assert made.connection.answer_seconds is None


def test_ordinary_sessions_have_the_limit(db):
    with connections["default"].cursor():
        assert connections["default"].connection.answer_seconds == 45
