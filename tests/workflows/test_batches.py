"""POST /workflows/batch: many executions, followed, cancelled and retried as one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from script.harness import graphs
from tests.factories import assert_error, mistakes
from workflows.models import Batch, Delivery, Execution, Status
from workflows.presentation import selectors
from workflows.queue import claims, state_machine
from workflows.queue.state_machine import Outcome
from workflows.webhooks import dispatcher


@pytest.fixture(autouse=True)
def clear_caches():
    selectors.cached_pending_count.forget()


def submitted(api: Any, **more: Any) -> dict[str, Any]:
    sent = {"workflow": graphs.colour(1), "grid": {"1.color": [1, 2, 3]}} | more
    response = api.post("/workflows/batch", sent)
    assert response.status_code == 200, response.content
    return response.json()


def run_next(status: Status = Status.COMPLETED) -> None:
    claim = claims.take(worker="gpu")
    assert claim is not None
    assert claims.mark_submitted(claim, boot_id="1")
    assert state_machine.begin(claim, total_steps=1)
    assert state_machine.finish(claim, Outcome(status, error="no" if status == Status.FAILED else None))


def test_a_grid_has_each_combination_the_last_name_turning_first(alice):
    batch = submitted(alice, grid={"1.color": [1, 2], "1.width": [8, 16]})
    assert (batch["total"], batch["remaining"], batch["status"]) == (4, 4, "running")
    assert batch["counts"] == {"pending": 4, "running": 0, "completed": 0, "failed": 0, "cancelled": 0}
    members = alice.get(f"/workflows/batches/{batch['batch_id']}").json()["executions"]
    assert [(each["position"], each["inputs"]) for each in members] == [
        (0, {"1.color": 1, "1.width": 8}),
        (1, {"1.color": 1, "1.width": 16}),
        (2, {"1.color": 2, "1.width": 8}),
        (3, {"1.color": 2, "1.width": 16}),
    ]
    prompt = Execution.objects.get(id=members[3]["execution_id"]).graph.prompt
    assert (prompt["1"]["inputs"]["color"], prompt["1"]["inputs"]["width"]) == (2, 16)


def test_they_wait_in_their_order_as_if_sent_one_by_one(alice):
    batch = submitted(alice)
    turns = Execution.objects.filter(batch=batch["batch_id"]).order_by("batch_position").values_list("turn")
    assert list(turns) == sorted(turns)
    one = alice.post("/workflows/execute", {"workflow": graphs.colour(1)}).json()
    assert one["queue_position"] == 4


def test_statements_do_not_grow_with_the_number(alice, caches_that_last):
    submitted(alice)  # what is read once in each process
    counts = []
    for number in (5, 90):
        with CaptureQueriesContext(
            connection,
        ) as queries:
            submitted(alice, grid={"1.color": list(range(number))})
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_a_thousand_at_once(alice):
    assert submitted(alice, grid={"1.color": list(range(1000))})["total"] == 1000


@pytest.mark.parametrize(
    "sent, field",
    [
        ({"grid": None}, "inputs"),
        ({"inputs": [{}]}, "inputs"),  # both
        ({"grid": None, "inputs": []}, "inputs"),
        ({"grid": {"1.color": []}}, "grid.1.color"),
        ({"grid": {"1.color": list(range(1001))}}, "grid"),
        ({"grid": {"9.color": [1]}}, "grid.0.9.color"),
        ({"webhook_events": ["workflow.started"]}, "webhook_events"),
    ],
)
def test_errors_are_reported_and_nothing_is_submitted(alice, sent, field):
    response = alice.post("/workflows/batch", {"workflow": graphs.colour(1), "grid": {"1.color": [1]}} | sent)
    assert field in mistakes(assert_error(response, 400, "validation_error"))
    assert (Execution.objects.count(), Batch.objects.count()) == (0, 0)


def test_a_batch_value_without_its_node_is_explained(alice):
    response = alice.post("/workflows/batch", {"workflow": graphs.colour(1), "inputs": [{"color": 1}]})
    [detail] = assert_error(response, 400, "validation_error")["details"]
    assert detail["field"] == "inputs.0.color"
    assert detail["message"] == "A value is named <node>.<input>, such as 3.seed; did you mean '1.color'?"


def test_all_or_none_where_a_quota_is_full(alice, settings):
    settings.QUOTA_EXECUTIONS_WAITING = 2
    sent = {"workflow": graphs.colour(1), "grid": {"1.color": [1, 2, 3]}}
    assert_error(alice.post("/workflows/batch", sent), 429, "rate_limit_exceeded")
    assert (Execution.objects.count(), Batch.objects.count()) == (0, 0)


def test_it_has_ended_when_the_last_one_has(alice):
    path = f"/workflows/batches/{submitted(alice)['batch_id']}"
    run_next()
    run_next(Status.FAILED)
    half = alice.get(path).json()
    assert (half["status"], half["remaining"], half["counts"]["failed"]) == ("running", 1, 1)
    assert half["percentage"] == pytest.approx(66.7)
    run_next()
    whole = alice.get(path).json()
    assert (whole["status"], whole["remaining"], whole["percentage"]) == ("completed", 0, 100.0)
    assert whole["completed_at"]


def test_one_webhook_reports_all_deliveries(alice, settings, monkeypatch):
    settings.WEBHOOK_HTTPS_ONLY = False
    settings.OUTBOUND_ALLOW = ["127.0.0.1"]
    batch = submitted(alice, webhook_url="http://127.0.0.1:9/hook")
    for status in (Status.COMPLETED, Status.FAILED):
        run_next(status)
    assert not Delivery.objects.exists()
    run_next()
    [delivery] = Delivery.objects.all()
    assert delivery.event == "batch.completed"
    [taken] = dispatcher.take(limit=5)
    body = json.loads(dispatcher._body(taken))
    assert (body["event"], body["batch_id"]) == ("batch.completed", batch["batch_id"])
    assert body["batch"]["counts"]["failed"] == 1
    assert len(body["executions"]) == 3


def test_cancel_ends_what_has_not_ended(alice):
    path = f"/workflows/batches/{submitted(alice)['batch_id']}"
    run_next()
    assert alice.post(f"{path}/cancel").json() == {"count": 2}
    assert alice.get(path).json()["counts"]["cancelled"] == 2
    assert alice.get(path).json()["status"] == "completed"
    assert_error(alice.post(f"{path}/cancel"), 409, "conflict")


def test_retry_submits_what_failed_in_its_place(alice):
    path = f"/workflows/batches/{submitted(alice)['batch_id']}"
    for status in (Status.COMPLETED, Status.FAILED, Status.COMPLETED):
        run_next(status)
    before = alice.get(path).json()["executions"]
    assert alice.post(f"{path}/retry").json() == {"count": 1}
    after = alice.get(path).json()
    assert (after["status"], after["remaining"], after["counts"]["failed"]) == ("running", 1, 0)
    assert [each["position"] for each in after["executions"]] == [0, 1, 2]
    again = alice.get(f"/workflows/{after['executions'][1]['execution_id']}").json()
    assert again["retried_from"] == before[1]["execution_id"]
    run_next()
    assert alice.get(path).json()["status"] == "completed"
    assert_error(alice.post(f"{path}/retry"), 409, "conflict")


def test_another_users_batch_is_not_found(alice, bob):
    path = f"/workflows/batches/{submitted(alice)['batch_id']}"
    for method, end in (("get", ""), ("post", "/cancel"), ("post", "/retry"), ("get", "/contact-sheet")):
        assert_error(bob(method, path + end), 404, "not_found")
    assert bob.get("/workflows/batches").json() == []
    assert len(alice.get("/workflows/batches").json()) == 1


def test_the_contact_sheet_is_a_picture_of_all(alice):
    import io

    from PIL import Image

    sheet = alice.get(f"/workflows/batches/{submitted(alice)['batch_id']}/contact-sheet")
    assert sheet["Content-Type"] == "image/jpeg"
    assert Image.open(io.BytesIO(sheet.content)).width == 2 * 264 + 8


def test_an_execution_says_which_batch_it_is_of(alice):
    batch = submitted(alice)
    id_ = Execution.objects.filter(batch=batch["batch_id"])[0].id
    assert alice.get(f"/workflows/{id_}").json()["batch_id"] == batch["batch_id"]
