"""POST /workflows/execute with `Prefer: wait=N`: the result in the response, if it is ready in time."""

from __future__ import annotations

import threading
import time

import pytest

from script.harness import graphs
from script.harness.waiting import wait_for


def execute(person, graph, wait, **more):
    return person.post("/workflows/execute", {"workflow": graph, **more}, headers={"Prefer": wait})


def alive(person) -> int:
    return sum(
        each["status"] in ("pending", "running") for each in person.get("/workflows/?limit=100").json()
    )


def test_an_execution_that_ends_in_time_is_answered_with_its_result(gpu_worker):
    person = gpu_worker.person()
    answer = execute(person, graphs.colour(0x336699), "wait=30")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Preference-Applied"] == "wait=30"
    result = answer.json()
    assert result["status"] == "completed"
    assert result["outputs"]["images"][0]["width"] == 16
    got = person.get(f"/workflows/{result['execution_id']}").json()
    assert set(got) - set(result) == {"events_url"}


def test_a_failure_is_answered_too(gpu_worker):
    person = gpu_worker.person()
    graph = graphs.colour(1)
    graph["3"] = {"class_type": "TestFail", "inputs": {"image": ["1", 0], "message": "it broke"}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    answer = execute(person, graph, "respond-async, wait=30")
    assert answer.json()["status"] == "failed"
    assert answer.json()["error"]


def test_an_execution_that_takes_longer_is_answered_as_accepted(gpu_worker):
    person = gpu_worker.person()
    began = time.monotonic()
    answer = execute(person, graphs.sleep(60, seed=21), "wait=4")  # until then it runs, on a busy machine too
    assert 4 <= time.monotonic() - began < 30
    accepted = answer.json()
    person.post(f"/workflows/{accepted['execution_id']}/cancel")
    assert answer.status_code == 200
    assert accepted["status"] == "running"
    assert accepted["queue_position"] is None
    assert accepted["started_at"]
    assert accepted["progress"]["total_steps"]


def test_a_cancel_ends_the_wait(gpu_worker):
    person = gpu_worker.person()
    answers = []
    waiting = threading.Thread(
        target=lambda: answers.append(execute(person, graphs.sleep(60, seed=22), "wait=30"))
    )
    waiting.start()
    [execution] = wait_for(lambda: person.get("/workflows/").json(), what="the execution")
    execution_id = execution["execution_id"]
    began = time.monotonic()
    person.post(f"/workflows/{execution_id}/cancel")
    waiting.join(30)
    assert time.monotonic() - began < 20
    assert answers[0].json()["status"] == "cancelled"


@pytest.mark.parametrize("prefer", ["wait=0", "wait", "wait=soon", "respond-async"])
def test_other_preferences_are_passed_over(stack, prefer):
    answer = execute(stack.person(), graphs.colour(1), prefer)
    assert answer.status_code == 200
    assert answer.json()["status"] == "pending"
    assert "Preference-Applied" not in answer.headers


def test_a_refused_submission_does_not_wait(stack):
    answer = execute(stack.person(), {}, "wait=30")
    assert answer.status_code == 400
    assert answer.json()["error"] == "validation_error"


def test_waits_hold_no_thread(gpu_worker):
    """More waits than the server has threads, and an ordinary request in between."""
    people = [gpu_worker.person() for _ in range(3)]
    ids = []
    waiting = [
        threading.Thread(
            target=lambda n=n: ids.append(
                execute(people[n % 3], graphs.sleep(60, seed=100 + n), "wait=30").json()["execution_id"]
            )
        )
        for n in range(40)
    ]
    for thread in waiting:
        thread.start()
    try:
        wait_for(
            lambda: sum(alive(person) for person in people) == 40,
            seconds=25,
            what="all of them to be accepted",
        )
        began = time.monotonic()
        assert people[0].get("/auth/me").status_code == 200
        assert time.monotonic() - began < 10
    finally:
        for person in people:
            for each in person.get("/workflows/?limit=100").json():
                person.post(f"/workflows/{each['execution_id']}/cancel")
        for thread in waiting:
            thread.join(60)
    assert len(ids) == 40


def test_a_repeated_request_whose_execution_was_deleted_says_so(stack):
    stack.stop_workers()
    person = stack.person()
    first = person.post(
        "/workflows/execute", {"workflow": graphs.colour(5)}, headers={"Idempotency-Key": "k"}
    )
    path = f"/workflows/{first.json()['execution_id']}"
    assert person.post(f"{path}/cancel").status_code == 200
    assert person.session.delete(f"{stack.url}{path}", timeout=30).ok
    again = person.post(
        "/workflows/execute",
        {"workflow": graphs.colour(5)},
        headers={"Idempotency-Key": "k", "Prefer": "wait=5"},
    )
    assert again.status_code == 409
    assert "was deleted" in again.json()["message"]
