"""Empties the database after a test that commits.

Django truncates every table and then makes the content types and permissions anew, which takes longer than
most of the tests that need it. Here rows are deleted, and content types and permissions stay. The state
afterwards is the same.
"""

from __future__ import annotations

from functools import cache

from django.db import OperationalError, connection, transaction
from django.test import TransactionTestCase

TRIES = 5
KEPT = {"django_content_type", "auth_permission", "django_migrations"}


def install() -> None:
    TransactionTestCase._fixture_teardown = _delete_all  # type: ignore[attr-defined]


def _delete_all(_: TransactionTestCase) -> None:
    tables = ", ".join(_tables())
    deletes = "; ".join(f"DELETE FROM {table}" for table in _tables())
    for tries_left in reversed(range(TRIES)):
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                # Foreign keys are checked at the commit. The lock waits for threads that are still writing.
                cursor.execute(f"LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE; {deletes}")
            return
        except OperationalError:
            # A deadlock with such a thread, or it took longer than a lock is waited for.
            if not tries_left:
                raise


@cache
def _tables() -> list[str]:
    names = connection.introspection.django_table_names(only_existing=True, include_views=False)
    return [connection.ops.quote_name(name) for name in sorted(set(names) - KEPT)]
