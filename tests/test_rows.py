"""`rows` reads and writes exactly what Django would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, connection
from django.db.models import Model
from django.utils import timezone

from accounts.models import User
from comfyserve.db import rows
from comfyserve.db.rows import Columns, prepared
from files.models import File
from workflows.models import Execution, Output, Status

pytestmark = pytest.mark.django_db


@pytest.fixture
def user() -> User:
    return User.objects.create_user(username="ada", email="ada@example.org", password=None)


def execution(user: User, **more: Any) -> Execution:
    columns = {"turn": 1.0, "start": 2.0, "finish": 3.0, "cost": 4.0, "created_at": timezone.now()}
    return Execution(user=user, timeout_minutes=5, kind="k", **columns | more)


def columns_of(row: Any) -> dict[str, Any]:
    return {field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields}


def insert(*objects: Model) -> None:
    """All columns are given, but not a key that the database chooses."""
    model = type(objects[0])
    columns = ", ".join(rows.names_of_columns(model))
    prepared(
        f"INSERT INTO {model._meta.db_table} ({columns}) SELECT {columns}"
        f" FROM json_populate_recordset(NULL::{model._meta.db_table}, %(new)s::json)",
        {"new": rows.as_json(objects)},
    )


def test_inserted_rows_read_the_same_through_django(user):
    options = {"metadata": {"a": ["b", 1]}, "lacking": ["x", "y"], "models_used": [{"name": "m"}]}
    made = execution(user, **options)
    insert(made)
    assert columns_of(Execution.objects.get()) == columns_of(made)
    output = Output(execution=made, position=0, group="texts", node_id="1", text="a")
    insert(output)
    assert columns_of(Output.objects.get()) | {"id": None} == columns_of(output)


def test_what_text_cannot_hold_is_left_out(user):
    insert(execution(user, error="a\0b\ud800", cost=1.0))
    assert Execution.objects.get().error == "ab?"


def test_a_default_of_the_database_is_not_inserted_as_text(user):
    made = Execution(user=user, timeout_minutes=5, kind="k", turn=1.0, start=2.0, finish=3.0, cost=4.0)
    with pytest.raises(TypeError, match="no value"):
        insert(made)


def test_a_statement_is_parsed_and_planned_once_per_connection(user):
    text = "SELECT username, 'once' FROM accounts_user WHERE id = %s"
    for _ in range(3):
        assert prepared(text, [user.pk]).fetchall() == [("ada", "once")]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT generic_plans + custom_plans FROM pg_prepared_statements"
            " WHERE statement LIKE '%''once''%'"
        )
        assert cursor.fetchall() == [(3,)]


def test_columns_read_what_django_reads(user):
    insert(execution(user, metadata={"a": 1}, lacking=["x"], status=Status.PENDING))
    own, theirs = Columns(Execution, "e"), Columns(User, "u")
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {own}, {theirs} FROM workflows_execution e JOIN accounts_user u ON u.id = e.user_id"
        )
        row = cursor.fetchone()
    assert columns_of(own.read(row)) == columns_of(Execution.objects.get())
    assert columns_of(theirs.read(row, at=len(own))) == columns_of(User.objects.get())


def test_an_object_that_was_read_is_not_new(user):
    insert(File(user=user, kind="output", filename="a", content_type="x", size=1, sha256="", key="k"))
    columns = Columns(File, "f")
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns} FROM files_file f")
        found = columns.read(cursor.fetchone())
    found.filename = "b"
    found.save()
    assert [file.filename for file in File.objects.all()] == ["b"]


@contextmanager
def protocol_traced(path: Path) -> Iterator[None]:
    """Write what is sent to PostgreSQL, and what it answers, to this file."""
    connection.ensure_connection()
    server = connection.connection.pgconn
    with path.open("w") as file:
        server.trace(file.fileno())
        try:
            yield
        finally:
            server.untrace()


def insert_in_pipeline(*objects: Execution) -> None:
    with rows.pipelined_transaction():
        for each in objects:
            insert(each)


class TestPipelinedTransaction:
    @pytest.mark.django_db(transaction=True)
    def test_rows_inserted_in_the_pipeline_can_be_read_within_it(self, user):
        with rows.pipelined_transaction():
            insert_in_pipeline(execution(user))
            assert rows.prepared("SELECT count(*) FROM workflows_execution").fetchone() == (1,)
        connection.close()
        assert Execution.objects.count() == 1

    @pytest.mark.django_db(transaction=True)
    def test_results_that_are_not_read_are_committed(self, user):
        insert_in_pipeline(execution(user))
        connection.close()
        assert Execution.objects.count() == 1

    @pytest.mark.django_db(transaction=True)
    def test_it_waits_for_postgresql_once(self, user, tmp_path):
        with protocol_traced(tmp_path / "trace"):
            insert_in_pipeline(execution(user))
        trace = (tmp_path / "trace").read_text()
        assert trace.count("\tSync") == 1
        assert trace.index('"BEGIN"') < trace.index('"COMMIT"') < trace.index("\tSync")

    @pytest.mark.django_db(transaction=True)
    def test_an_error_rolls_everything_back(self, user):
        twice = execution(user)
        with pytest.raises(IntegrityError):
            insert_in_pipeline(execution(user), twice, execution(user, id=twice.id))
        assert connection.get_autocommit()
        assert not Execution.objects.exists()

    def test_an_error_within_a_transaction_rolls_back_to_its_beginning(self, user):
        before, twice = execution(user), execution(user)
        insert(before)
        with pytest.raises(IntegrityError):
            insert_in_pipeline(twice, execution(user, id=twice.id))
        assert [each.id for each in Execution.objects.all()] == [before.id]


def test_times_are_read_in_utc_by_django_and_by_prepared_statements(user):
    moment = timezone.now()
    insert(execution(user, completed_at=moment, status=Status.COMPLETED))
    text = (
        "SELECT completed_at, ARRAY[completed_at], '0001-01-01 00:00:00+00'::timestamptz"
        " FROM workflows_execution"
    )
    [(one, several, first)] = prepared(text).fetchall()
    with connection.cursor() as cursor:
        cursor.execute(text)
        assert cursor.fetchall() == [(one, several, first)]
    assert one == several[0] == Execution.objects.get().completed_at == moment
    assert [each.tzinfo for each in (one, several[0], first)] == [UTC] * 3
