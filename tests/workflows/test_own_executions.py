"""GET and DELETE /workflows/…, cancel and retry, without a worker."""

from __future__ import annotations

import pytest
from django.db import connection
from django.db.models.functions import Now

from script.harness import graphs
from tests.factories import assert_error, make_user
from workflows.models import Execution, Graph, Output, Status
from workflows.presentation import selectors
from workflows.queue import claims, state_machine


def submit(api, **more) -> str:
    response = api.post("/workflows/execute", {"workflow": graphs.colour(1), **more})
    assert response.status_code == 200, response.content
    return response.json()["execution_id"]


def fail(execution_id: str) -> None:
    claim = claims.take(worker="gpu")
    assert claim is not None
    assert str(claim.execution_id) == execution_id
    assert state_machine.finish(
        claim, state_machine.Outcome(Status.FAILED, error="it broke", error_details={"type": "x"})
    )


PATHS = ["", "/status", "/logs"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("execution_id", ["nonsense", "00000000-0000-4000-8000-000000000000", "0" * 5000])
def test_unknown_and_malformed_ids_are_404(alice, path, execution_id):
    assert_error(alice.get(f"/workflows/{execution_id}{path}"), 404, "not_found")


@pytest.mark.parametrize("path", PATHS)
def test_another_users_execution_is_404(alice, bob, path):
    assert_error(bob.get(f"/workflows/{submit(alice)}{path}"), 404, "not_found")


@pytest.mark.parametrize("action", ["cancel", "retry"])
def test_users_cannot_change_each_others_executions(alice, bob, action):
    execution_id = submit(alice)
    assert_error(bob.post(f"/workflows/{execution_id}/{action}"), 404, "not_found")
    assert_error(bob.delete(f"/workflows/{execution_id}"), 404, "not_found")
    assert alice.get(f"/workflows/{execution_id}").json()["status"] == "pending"


def test_the_list_has_the_latest_first_and_counts_all(alice, bob):
    ids = [submit(alice) for _ in range(5)]
    submit(bob)
    response = alice.get("/workflows/", data={"limit": 2, "offset": 1})
    assert [entry["execution_id"] for entry in response.json()] == [ids[3], ids[2]]
    assert response["X-Total-Count"] == "5"


def test_a_long_list_is_counted_up_to_a_bound(alice, monkeypatch):
    monkeypatch.setattr("comfyserve.api.paging.EXACT_UP_TO", 2)
    submit(alice), submit(alice)
    exact = alice.get("/workflows/")
    assert (exact["X-Total-Count"], exact["X-Total-Count-Relation"]) == ("2", "exact")
    submit(alice)
    more = alice.get("/workflows/", data={"offset": 2})
    assert (more["X-Total-Count"], more["X-Total-Count-Relation"]) == ("2", "at-least")
    assert len(more.json()) == 1


APP = {"name": "alice/portrait", "version": 1, "outputs": {}, "files": [], "hidden_from": None}


def test_the_runs_of_an_app_are_counted_up_to_a_lower_bound(alice, monkeypatch):
    """Each has to be fetched to be counted: an index of an expression does not hold what is counted."""
    monkeypatch.setattr("comfyserve.api.paging.EXACT_UP_TO_FETCHED", 1)
    for _ in range(2):
        Execution.objects.filter(id=submit(alice)).update(app=APP)
    of_app = alice.get("/workflows/", data={"app": "alice/portrait", "limit": 1})
    assert (of_app["X-Total-Count"], of_app["X-Total-Count-Relation"]) == ("1", "at-least")
    assert alice.get("/workflows/", data={"limit": 1})["X-Total-Count"] == "2"


def test_the_list_is_filtered_by_status(alice):
    cancelled = submit(alice)
    waiting = submit(alice)
    alice.post(f"/workflows/{cancelled}/cancel")
    for status, expected in (("cancelled", [cancelled]), ("pending", [waiting]), ("running", [])):
        listed = alice.get("/workflows/", data={"status": status}).json()
        assert [entry["execution_id"] for entry in listed] == expected


@pytest.mark.django_db
def test_the_filter_by_app_has_an_index():
    """For many rows; with as few as here PostgreSQL takes it only when nothing else is allowed."""
    rows = selectors.executions_of(user=make_user("carol"), app="carol/portrait")
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
    assert "execution_of_app " in rows.explain()
    assert "execution_of_app_status" in rows.filter(status=Status.FAILED).explain()


@pytest.mark.parametrize(
    ("name", "value"), [("limit", 0), ("limit", 101), ("limit", "x"), ("offset", -1), ("status", "done")]
)
def test_bad_list_parameters_are_400_with_their_name(alice, name, value):
    body = assert_error(alice.get("/workflows/", data={name: value}), 400, "validation_error")
    assert body["details"][0]["field"] == name


def test_a_list_of_twenty_costs_a_fixed_number_of_queries(alice, django_assert_max_num_queries):
    for _ in range(20):
        submit(alice)
    with django_assert_max_num_queries(5):  # session, page, outputs with files, log lines, count
        assert len(alice.get("/workflows/").json()) == 20


def test_status_of_a_waiting_one(alice):
    first, second = submit(alice), submit(alice)
    assert alice.get(f"/workflows/{first}/status").json()["queue_position"] == 1
    status = alice.get(f"/workflows/{second}/status").json()
    assert status["queue_position"] == 2
    assert status["status"] == "pending"
    assert status["started_at"] is None
    assert status["estimated_completion"] is None
    assert status["progress"] == {
        "current_step": 0, "total_steps": 0, "percentage": 0.0, "current_node": None, "eta_seconds": None,
    }  # fmt: skip


def test_a_waiting_one_is_cancelled_at_once(alice):
    execution_id = submit(alice)
    response = alice.post(f"/workflows/{execution_id}/cancel")
    assert response.status_code == 200
    assert response.json() == {"message": "Workflow cancelled successfully"}
    assert alice.get(f"/workflows/{execution_id}/status").json()["queue_position"] is None
    assert claims.take(worker="gpu") is None
    assert_error(alice.post(f"/workflows/{execution_id}/cancel"), 409, "conflict")


def test_a_failed_one_is_retried_as_a_new_one(alice):
    execution_id = submit(alice, priority="high", metadata={"tag": 1}, timeout_minutes=7)
    fail(execution_id)
    failed = alice.get(f"/workflows/{execution_id}").json()
    assert (failed["error"], failed["error_details"]) == ("it broke", {"type": "x"})
    response = alice.post(f"/workflows/{execution_id}/retry")
    assert response.status_code == 200, response.content
    body = response.json()
    assert body["retried_from"] == execution_id
    assert (body["status"], body["queue_position"]) == ("pending", 1)
    again = Execution.objects.get(id=body["execution_id"])
    assert (again.priority, again.metadata, again.timeout_minutes) == ("high", {"tag": 1}, 7)


def test_a_waiting_execution_cannot_be_retried(alice):
    assert_error(alice.post(f"/workflows/{submit(alice)}/retry"), 409, "conflict")


def test_an_ended_one_is_deleted(alice):
    execution_id = submit(alice)
    assert_error(alice.delete(f"/workflows/{execution_id}"), 409, "conflict")
    alice.post(f"/workflows/{execution_id}/cancel")
    assert alice.delete(f"/workflows/{execution_id}").status_code == 200
    assert_error(alice.get(f"/workflows/{execution_id}"), 404, "not_found")


def test_a_retry_outlives_what_it_was_retried_from_and_still_names_it(alice):
    execution_id = submit(alice)
    alice.post(f"/workflows/{execution_id}/cancel")
    retried = alice.post(f"/workflows/{execution_id}/retry").json()["execution_id"]
    assert alice.delete(f"/workflows/{execution_id}").status_code == 200
    assert alice.get(f"/workflows/{retried}").json()["retried_from"] == execution_id


def test_a_cursor_skips_nothing_while_executions_are_deleted(alice):
    wanted = [submit(alice) for _ in range(9)][::-1]
    seen: list[str] = []
    path: str | None = "/workflows/?limit=2"
    while path:
        page = alice.get(path)
        ids = [entry["execution_id"] for entry in page.json()]
        seen += ids
        for execution_id in ids:
            alice.post(f"/workflows/{execution_id}/cancel")
            assert alice.delete(f"/workflows/{execution_id}").status_code == 200
        cursor = page.headers.get("X-Next-Cursor")
        path = f"/workflows/?limit=2&cursor={cursor}" if cursor else None
    assert seen == wanted


@pytest.mark.parametrize("cursor", ["x", "bm90IG9uZQ", "MjAyNi0wMS0wMXwx", "%00"])
def test_a_foreign_cursor_is_rejected_with_its_field(alice, cursor):
    body = assert_error(alice.get(f"/workflows/?cursor={cursor}"), 400, "validation_error")
    assert [detail["field"] for detail in body["details"]] == ["cursor"]


def test_a_list_is_bounded_and_says_what_the_page_of_an_execution_says(alice):
    execution_id = submit(alice)
    details = {"type": "refused", "node_errors": {}}
    Execution.objects.filter(id=execution_id).update(
        status="failed", error="It failed " * 300, completed_at=Now()
    )
    Graph.objects.filter(execution_id=execution_id).update(error_details=details)
    for position in range(30):
        Output.objects.create(
            execution_id=execution_id, position=position, group="texts", node_id="1", text="x" * 2000
        )
    whole = alice.get(f"/workflows/{execution_id}").json()
    [listed] = alice.get("/workflows/").json()
    assert [len(each["text"]) for each in listed["outputs"]["texts"]] == [500] * 20
    assert listed["truncated"] is True
    differing = {name for name in listed if listed[name] != whole.get(name)}
    assert differing == {"outputs", "error", "truncated"}
    assert listed["error"] == whole["error"][:2000]
    assert listed["error_details"] == details
