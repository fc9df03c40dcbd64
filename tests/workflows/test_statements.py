"""How many statements each endpoint of an execution takes, and which."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from script.harness import graphs
from tests.workflows.test_own_executions import fail, submit
from workflows.models import Execution

SESSION = "FROM accounts_session"
READ = ["FROM workflows_execution", "FROM workflows_output", "FROM workflows_logline"]
SUBMITTED = [
    SESSION,
    "SAVEPOINT",  # within a test; otherwise BEGIN
    "pg_advisory_xact_lock",
    "INSERT INTO workflows_execution",  # with its place, the graph, the first log line and the metric
    "RELEASE SAVEPOINT",
]


@pytest.fixture(autouse=True)
def _cached_known(alice, caches_that_last):
    """Figures that are asked for every few seconds only are known from here on."""
    submit(alice)


def check(done: CaptureQueriesContext, expected: list[str]) -> None:
    statements = [query["sql"] for query in done.captured_queries]
    assert len(statements) == len(expected), statements
    for statement, part in zip(statements, expected, strict=True):
        assert part in " ".join(statement.split())


def test_a_submission(alice):
    with CaptureQueriesContext(connection) as done:
        alice.post("/workflows/execute", _body(), headers={"Prefer": "wait=1"})
    check(done, SUBMITTED)


def test_a_submission_returns_its_queue_position(alice):
    with CaptureQueriesContext(connection) as done:
        alice.post("/workflows/execute", _body())
    check(done, [*SUBMITTED, "WITH asked AS"])


def test_its_place_is_not_planned_again(alice):
    before = _plans_for_one_call()
    for _ in range(3):
        submit(alice)
    assert _plans_for_one_call() == before


def _plans_for_one_call() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(custom_plans), 0) FROM pg_prepared_statements"
            " WHERE statement LIKE '%percentile_cont%'"
        )
        return int(cursor.fetchone()[0])


def test_the_result(alice):
    execution_id = submit(alice)
    with CaptureQueriesContext(connection) as done:
        alice.get(f"/workflows/{execution_id}")
    check(done, [SESSION, *READ])


def test_the_status_of_one_that_waits(alice):
    execution_id = submit(alice)
    with CaptureQueriesContext(connection) as done:
        assert alice.get(f"/workflows/{execution_id}/status").json()["queue_position"] == 2
    check(done, [SESSION, "WITH asked AS"])


def test_the_status_of_one_that_has_ended(alice):
    Execution.objects.all().delete()
    execution_id = submit(alice)
    fail(execution_id)
    with CaptureQueriesContext(connection) as done:
        assert alice.get(f"/workflows/{execution_id}/status").json()["status"] == "failed"
    check(done, [SESSION, "FROM workflows_execution"])


def _body() -> dict[str, object]:
    return {"workflow": graphs.colour(2)}
