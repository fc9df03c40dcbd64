"""Connections that a thread gets from the pool again and again."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections, transaction
from django.db.backends.postgresql.base import DatabaseWrapper

pytestmark = pytest.mark.django_db(transaction=True)
connection: Any = connections["default"]


def state() -> dict[str, Any]:
    return {name: value for name, value in vars(connection).items() if name not in ("connection", "close_at")}


def disturb() -> None:
    """As an error in a transaction leaves it, and the connection with it."""
    connection.ensure_connection()
    connection.connection.autocommit = False
    connection.autocommit = False
    connection.in_atomic_block = connection.needs_rollback = connection.errors_occurred = True
    connection.savepoint_ids, connection.atomic_blocks = ["s"], [transaction.atomic()]
    connection.run_on_commit = [(set(), print, False)]
    connection.close()
    connection.closed_in_transaction = True
    connection.connection = None


def test_their_state_is_reset_as_django_resets_it() -> None:
    connection.ensure_connection()
    disturb()
    DatabaseWrapper.connect(connection)  # Django's own
    expected = state()
    disturb()
    connection.connect()
    assert state() == expected
    assert connection.connection.autocommit
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id_if_assigned() IS NULL")
        assert cursor.fetchone() == (True,)


def test_a_pool_that_was_closed_is_opened_again() -> None:
    connection.ensure_connection()
    connection.close()
    connection.close_pool()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
