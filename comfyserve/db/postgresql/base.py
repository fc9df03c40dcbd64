"""Django's PostgreSQL backend, except that an unavailable server always raises OperationalError, and that
the wait for an answer is bounded on our side too: see `comfyserve.db.sessions`.

PostgreSQL reports some effects of a failover or timeout as "internal errors". Callers that retry would treat
them as bugs. Translating them here covers every statement, commit and cursor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import psycopg
from django.db import NotSupportedError, OperationalError
from django.db.backends.postgresql import base
from django.db.utils import DatabaseErrorWrapper
from django.utils.functional import cached_property
from psycopg import errors
from psycopg.types.datetime import TimestamptzLoader

from comfyserve.db import sessions

# Temporary failures that are not a psycopg.OperationalError.
NOT_NOW = (
    errors.ReadOnlySqlTransaction,  # a standby, or a primary during promotion
    errors.IdleInTransactionSessionTimeout,
    errors.TransactionTimeout,
)


class _Errors(DatabaseErrorWrapper):
    wrapper: base.DatabaseWrapper

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(exc_value, NOT_NOW):
            self.wrapper.errors_occurred = True
            raise OperationalError(*exc_value.args).with_traceback(traceback) from exc_value
        super().__exit__(exc_type, exc_value, traceback)


class DatabaseWrapper(base.DatabaseWrapper):
    _sends_begin = True
    _was_connected = False

    @property
    def pool(self) -> Any:
        options = self.settings_dict["OPTIONS"].get("pool")
        if options:
            options.setdefault("connection_class", sessions.Connection)
        return super().pool

    def connect(self) -> None:
        """Get a connection from the pool: at the beginning of each request and each step of a worker.

        Django prepares it as if it were new (parameters, checks, autocommit, a signal), which takes 0.1 ms
        from cold caches. Here only the state of a transaction is reset, as Django does.
        """
        pool = self._connection_pools.get(self.alias)  # type: ignore[attr-defined]  # not in Django's stubs
        if not self._was_connected or pool is None or pool.closed:
            super().connect()
            self._was_connected = True
            return
        self.in_atomic_block = self.closed_in_transaction = False
        self.needs_rollback = self.errors_occurred = False
        self.savepoint_ids, self.atomic_blocks, self.run_on_commit = [], [], []
        self.health_check_done = True
        self.connection = pool.getconn()
        self._set_autocommit(True)
        self.autocommit = True

    def _configure_connection(self, connection: psycopg.Connection[Any]) -> bool:
        """Called for each new connection, with and without a pool."""
        sessions.await_first_answer(connection)
        # psycopg's own, in C. Django sets the session's time zone, and its loader replaces that of each value
        # with the same one, in Python: that takes ten times as long.
        connection.adapters.register_loader("timestamptz", TimestamptzLoader)
        # Django's type stubs do not have it.
        return bool(super()._configure_connection(connection))  # type: ignore[misc]

    def create_cursor(self, name: str | None = None) -> Any:
        """Without Django's own loader of timestamps, see above. Server-side cursors, which have names, are
        disabled."""
        if name is not None:
            raise NotSupportedError("server-side cursors are disabled (DISABLE_SERVER_SIDE_CURSORS)")
        return self.connection.cursor()

    @contextmanager
    def begin_left_to_caller(self) -> Iterator[None]:
        """A transaction that is started in this block sends no BEGIN; the caller does.

        psycopg sends it before the first statement and waits for the answer, even in a pipeline. It does not
        if it stays in its autocommit mode.
        """
        self._sends_begin = False
        try:
            yield
        finally:
            self._sends_begin = True

    def _set_autocommit(self, autocommit: bool) -> None:
        if autocommit != self.connection.autocommit and (autocommit or self._sends_begin):
            super()._set_autocommit(autocommit)  # type: ignore[misc]

    @cached_property
    def wrap_database_errors(self) -> DatabaseErrorWrapper:
        return _Errors(self)
