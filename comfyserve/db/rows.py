"""Model instances to and from PostgreSQL with precompiled SQL, for the hot paths of requests and runs.

Django compiles a query's SQL anew each time, which takes longer than executing it. `Columns` reads and
`as_json` writes exactly what Django itself would.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, Generic, TypeVar
from uuid import UUID

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.models import AutoField, Model
from django.db.models.base import ModelState

from comfyserve.db.connections import sanitize_json

M = TypeVar("M", bound=Model)
D = TypeVar("D")


class Columns(Generic[M]):
    """The columns of one model, for a query with `alias` in its FROM, and its objects from the rows.

    user = Columns(User, "u")
    cursor.execute(f"SELECT {user} FROM accounts_user u WHERE u.id = %s", [id])
    found = user.read(cursor.fetchone())
    """

    def __init__(self, model: type[M], alias: str) -> None:
        fields = model._meta.concrete_fields
        self._model = model
        self._text = ", ".join(f'{alias}."{field.column}"' for field in fields)
        self._names = [field.attname for field in fields]
        self._decoded = [
            (position, field) for position, field in enumerate(fields) if hasattr(field, "from_db_value")
        ]

    def __str__(self) -> str:
        return self._text

    def __len__(self) -> int:
        return len(self._names)

    def read(self, row: Sequence[Any], *, at: int = 0) -> M:
        """The instance whose columns start at that position of the row."""
        values = list(row[at : at + len(self)])
        if self._decoded:
            database = connections[DEFAULT_DB_ALIAS]
            for position, field in self._decoded:
                values[position] = field.from_db_value(values[position], None, database)
        return instance_of(self._model, zip(self._names, values, strict=True))


def instance_of(model: type[M], columns: Iterable[tuple[str, Any]]) -> M:
    """As `Model.from_db` leaves it, at a third of its cost: a whole row, by attribute, needs no defaults, and
    nobody listens to the signals.
    """
    made = model.__new__(model)
    vars(made).update(columns)
    made._state = ModelState()
    mark_as_saved(made)
    return made


def mark_as_saved(each: Model) -> None:
    """For an instance that was inserted or read by a statement of its own."""
    each._state.adding, each._state.db = False, DEFAULT_DB_ALIAS


def names_of_columns(model: type[Model]) -> list[str]:
    """Quoted, except for a key that the database chooses: the columns of `as_json`."""
    return [f'"{field.column}"' for field in model._meta.concrete_fields if not isinstance(field, AutoField)]


def as_json(objects: Sequence[Model]) -> str:
    """New rows as one parameter for PostgreSQL's `json_populate_recordset`, so that a statement that inserts
    them is the same, and planned once, for any number. What PostgreSQL's text cannot hold is left out.

    Raises TypeError for a column that would get its default in the database.
    """
    new = [
        {field.column: field.pre_save(each, True) for field in each._meta.concrete_fields} for each in objects
    ]
    return json.dumps(sanitize_json(new), default=_text)


def _text(value: Any) -> str:
    if isinstance(value, datetime | UUID):
        return str(value)
    raise TypeError(f"{value!r} is no value of a column")


def prepared(sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> psycopg.Cursor[Any]:
    """Run a statement that PostgreSQL plans once per connection, and read its rows from the cursor.

    For statements on hot paths: planning them takes longer than executing them. Django's own cursor
    interpolates the values client-side, so that each is a new statement. The text must therefore not vary,
    except between a few forms. Errors are Django's, as from its own cursor.
    """
    database = connections[DEFAULT_DB_ALIAS]
    database.ensure_connection()
    database.validate_no_broken_transaction()
    kind: type[psycopg.Cursor[Any]] = psycopg.Cursor
    if isinstance(parameters, Mapping):
        kind, (sql, names) = psycopg.RawCursor, _numbered(sql)
        parameters = [parameters[name] for name in names]
    began = time.perf_counter()
    with database.wrap_database_errors:
        cursor = kind(database.connection)
        cursor.execute(sql, parameters, prepare=True)
    if database.queries_logged:
        took = f"{time.perf_counter() - began:.3f}"
        database.queries_log.append({"sql": sql, "time": took})
    return cursor


@lru_cache(maxsize=128)
def _numbered(sql: str) -> tuple[str, tuple[str, ...]]:
    """The text with $1, $2, … for its named parameters, and their names.

    psycopg would parse a text of more than 4,096 characters anew each time.
    """
    names: dict[str, int] = {}
    text = re.sub(r"%\((\w+)\)s", lambda found: f"${names.setdefault(found[1], len(names) + 1)}", sql)
    return text, tuple(names)


@contextmanager
def pipeline() -> Iterator[None]:
    """`prepared` statements of the block are sent without waiting for each other's results.

    They have run when the block ends, or when the first of their results is read. An error of any is raised
    then.
    """
    database = connections[DEFAULT_DB_ALIAS]
    database.ensure_connection()
    database.validate_no_broken_transaction()
    with database.wrap_database_errors, database.connection.pipeline():
        yield


@contextmanager
def begun_in_pipeline(*, commit: bool = False) -> Iterator[AbstractContextManager[None]]:
    """A transaction that begins with the statements of the yielded `pipeline`: BEGIN is sent with them.

    with begun_in_pipeline() as first:
        with first:
            ...  # prepared statements
        ...  # any statements, once the pipeline has ended

    With `commit`, COMMIT is sent with them too: it has been committed when the pipeline ends, or an error of
    any statement is raised then and everything is rolled back. Inside another transaction it is a savepoint.
    """
    database: Any = connections[DEFAULT_DB_ALIAS]
    if database.in_atomic_block:
        # A savepoint can only be rolled back after the pipeline with the error has ended.
        with transaction.atomic():
            yield pipeline()
        return
    with ExitStack() as stack:
        with database.begin_left_to_caller():
            stack.enter_context(transaction.atomic())
        yield _pipeline_with_begin(database, commit=commit)


@contextmanager
def _pipeline_with_begin(database: Any, *, commit: bool) -> Iterator[None]:
    with pipeline():
        _send(database, "BEGIN")
        yield
        if commit and not database.needs_rollback:
            _send(database, "COMMIT")  # Django's own then has nothing to do, and runs its hooks


@contextmanager
def pipelined_transaction() -> Iterator[None]:
    """A transaction whose statements are sent as in `pipeline`, together with its BEGIN and COMMIT.

    It has been committed when the block ends. An error of any statement is raised then, or when a later
    result is read, and everything is rolled back. Inside another transaction it is a savepoint.
    """
    with begun_in_pipeline(commit=True) as first, first:
        yield


def _send(database: Any, sql: str) -> None:
    with database.wrap_database_errors:
        psycopg.Cursor(database.connection).execute(sql, prepare=False)


def execute(sql: str, parameters: Sequence[Any] | Mapping[str, Any]) -> int:
    """The number of rows changed by a `prepared` statement."""
    return prepared(sql, parameters).rowcount


def as_dataclasses(kind: type[D], cursor: Any, **convert: Callable[[Any], Any]) -> list[D]:
    """The rows of an executed statement, each as a `kind` whose fields are named after the columns.

    `convert` maps the values of a column. Raises TypeError for a column without a field, or a field without a
    column.
    """
    names = [column[0] for column in cursor.description]
    found = []
    for row in cursor.fetchall():
        values = dict(zip(names, row, strict=True))
        for name, function in convert.items():
            values[name] = function(values[name])
        found.append(kind(**values))
    return found
