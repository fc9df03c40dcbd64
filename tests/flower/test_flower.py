"""Executions in a real Flower: their states, workers, runtimes, and the queues they wait in."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from script.harness import graphs
from script.harness.stack import Person, Stack
from script.harness.waiting import wait_for
from tests.flower.conftest import AUTH, FlowerServer

pytestmark = pytest.mark.timeout(400)

HOST = socket.gethostname()
FAILS = {
    **graphs.colour(7),
    "3": {"class_type": "TestFail", "inputs": {"image": ["1", 0], "message": "out of paint"}},
    "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "never"}},
}


def _ten_of(person: Person, i: int) -> Iterator[tuple[str, str]]:
    """Submit ten; (id, the state in which Flower is to show its end)."""
    for k in range(10):
        if k == 3:
            yield person.execute(FAILS), "FAILURE"
        elif k == 5 and i == 0:
            yield person.execute(graphs.sleep(120.0), priority="high"), "REVOKED"  # cancelled while it runs
        elif k == 5:
            yield person.execute(graphs.colour(i * 10 + k), priority="low"), "REVOKED"
        elif k == 7:
            yield person.execute(graphs.sleep(1.0, seed=424_200 + i), priority="high"), "SUCCESS"
        else:
            yield person.execute(graphs.colour(i * 10 + k)), "SUCCESS"


def _says_what_postgresql_says(stack: Stack, id_: str, task: dict[str, Any]) -> None:
    [(worker, status, error, models)] = stack.sql(
        "SELECT worker, status, error, models_used FROM workflows_execution WHERE id = %s", id_
    )
    if status == "cancelled":
        return
    assert task["worker"] == f"gpu-{worker}@{HOST}"
    assert task["received"] <= task["started"]
    assert task["runtime"] >= (0.9 if "high" in task["kwargs"] else 0)
    assert "'user': 'watched" in task["kwargs"]
    assert f"'models': {models}" in task["kwargs"]
    assert task["exception"] == error
    assert task["result"] == ("1 output" if status == "completed" else None)


def _one_is_taken_back(stack: Stack, comfyui: Any, flower: FlowerServer, running: str) -> str:
    """Start a worker, which runs this one, and pause it: what it staged behind it goes back. Its id."""
    stack.start_worker("gpu-0", comfyui_url=comfyui.url, env={"COMFYUI_NAME": "gpu-0"})
    flower.wait_for_state(running, "STARTED")
    staged = "SELECT id::text FROM workflows_execution WHERE worker <> '' AND status = 'pending'"
    [[id_]] = wait_for(lambda: stack.sql(staged), seconds=60, what="one staged behind it")
    flower.wait_for_state(id_, "RECEIVED")
    stack.sql("UPDATE workflows_worker SET wish = 'pause'")
    stack.sql("SELECT pg_notify('comfyserve_wish', 'gpu-0')")
    assert flower.wait_for_state(id_, "RETRY")["exception"] == "its worker is paused"
    return str(id_)


def test_thirty_executions_of_three_users_on_two_workers(
    bare_stack: Stack, comfyui_pair: Any, flower: FlowerServer
) -> None:
    stack = bare_stack
    people = [stack.person("watched") for _ in range(3)]
    before = flower.lengths()
    submitted = {id_: end for i, person in enumerate(people) for id_, end in _ten_of(person, i)}
    for id_ in submitted:
        task = flower.wait_for_state(id_, "PENDING")
        assert task["name"] == "workflows.execution"
        assert task["kwargs"].startswith("{'user': 'watched")
        assert "'priority': '" in task["kwargs"]
        assert task["sent"]
        assert not task["received"]
    # Webhooks of other tests' users may still be waiting for a retry, and nobody takes other tests' tasks.
    assert flower.lengths() | {"webhooks": 0} == before | {"gpu": 30, "webhooks": 0}
    assert set(before) == {"default", "gpu", "models", "webhooks"}

    running, *cancelled = [id_ for id_, end in submitted.items() if end == "REVOKED"]
    for person, id_ in zip(people[1:], cancelled, strict=True):
        assert person.post(f"/workflows/{id_}/cancel").status_code == 200
        assert flower.wait_for_state(id_, "REVOKED").get("worker") is None
    assert flower.lengths()["gpu"] == 28

    retried = _one_is_taken_back(stack, comfyui_pair[0], flower, running)
    stack.start_worker("gpu-1", comfyui_url=comfyui_pair[1].url, env={"COMFYUI_NAME": "gpu-1"})
    assert people[0].post(f"/workflows/{running}/cancel").status_code == 200
    assert flower.wait_for_state(running, "REVOKED")["worker"] == f"gpu-gpu-0@{HOST}"
    stack.sql("UPDATE workflows_worker SET wish = 'work'")
    stack.sql("SELECT pg_notify('comfyserve_wish', 'gpu-0')")
    tasks = {id_: flower.wait_for_state(id_, end) for id_, end in submitted.items()}
    assert flower.lengths()["gpu"] == 0
    nodes = {f"gpu-gpu-{i}@{HOST}" for i in range(2)}
    for id_, task in tasks.items():
        _says_what_postgresql_says(stack, id_, task)
    assert {id_ for id_, task in tasks.items() if task["retries"]} == {retried}
    rows = flower.workers()
    assert set(rows) == nodes
    assert Counter(task["worker"] for task in tasks.values() if task["worker"]) == {
        name: rows[name]["task-received"] for name in nodes
    }
    assert sum(row.get("task-succeeded", 0) for row in rows.values()) == 24
    assert sum(row.get("task-failed", 0) for row in rows.values()) == 3


def test_a_running_execution_is_active_and_a_requeued_one_is_a_retry(
    bare_stack: Stack, comfyui_pair: Any, flower: FlowerServer
) -> None:
    stack, ana = bare_stack, bare_stack.person("ana")
    stack.start_worker("gpu", comfyui_url=comfyui_pair[0].url, env={"COMFYUI_NAME": "gpu-0"})
    running, staged = (ana.execute(graphs.sleep(120.0, seed=seed)) for seed in range(2))
    flower.wait_for_state(running, "STARTED")
    task = flower.wait_for_state(staged, "RECEIVED")
    assert "'priority': 'normal'" in task["kwargs"]
    node = f"gpu-gpu-0@{HOST}"

    def active() -> list[Any]:
        found = flower.get(f"/api/workers?refresh=1&workername={node}")
        return [(each["id"], each["name"]) for each in found[node].get("active", [])]

    wait_for(lambda: active() == [(running, "workflows.execution")], seconds=60, what="the active task")
    wait_for(lambda: flower.workers()[node]["active"] == 1, seconds=60, what="one active in a heartbeat")

    stack.sql("UPDATE workflows_worker SET wish = 'pause'")
    stack.sql("SELECT pg_notify('comfyserve_wish', 'gpu-0')")
    assert flower.wait_for_state(staged, "RETRY")["exception"] == "its worker is paused"
    assert flower.workers()[node]["task-received"] == 1

    answer = flower.post(f"/api/task/revoke/{staged}?terminate=true")
    assert answer.status_code == 200
    assert answer.json()["message"] == f"Cancelled execution '{staged}'"
    flower.wait_for_state(staged, "REVOKED")
    assert flower.post(f"/api/task/revoke/{running}?terminate=true").status_code == 200
    assert flower.wait_for_state(running, "REVOKED")["worker"] == node
    wait_for(lambda: active() == [], seconds=60, what="nothing active")
    for id_ in (running, staged):
        assert ana.get(f"/workflows/{id_}").json()["status"] == "cancelled"
    again = flower.post(f"/api/task/revoke/{running}")
    assert again.status_code == 409
    assert "ended already" in again.text
    noted = stack.sql(
        "SELECT note, via, object_type FROM accounts_auditentry"
        " WHERE action = 'execution.cancel' AND object_id = ANY(%s)",
        [running, staged],
    )
    assert noted == [("in Flower, by operator from 127.0.0.1", "system", "execution")] * 2


def test_it_remembers_executions_over_a_restart(bare_stack: Stack, flower: FlowerServer) -> None:
    waiting = bare_stack.person("ben").execute(graphs.colour(1))
    flower.wait_for_state(waiting, "PENDING")
    flower.process.stop(seconds=60)  # it writes what it has seen
    flower.start()
    assert flower.task(waiting)["state"] == "PENDING"
    assert flower.task(waiting)["kwargs"].startswith("{'user': 'ben")


SWITCHED_OFF = (
    "/api/worker/shutdown/gpu@here",
    "/api/worker/pool/restart/gpu@here",
    "/api/worker/pool/grow/gpu@here?n=3",
    "/api/worker/pool/shrink/gpu@here",
    "/api/worker/pool/autoscale/gpu@here?min=1&max=2",
    "/api/worker/queue/add-consumer/gpu@here?queue=x",
    "/api/worker/queue/cancel-consumer/gpu@here?queue=gpu",
    "/api/task/send-task/workflows.tasks.clean",
    "/api/task/apply/workflows.tasks.clean",
    "/api/task/async-apply/workflows.tasks.clean",
    "/api/task/timeout/workflows.tasks.clean?workername=gpu@here&hard=1",
    "/api/task/rate-limit/workflows.tasks.clean?workername=gpu@here&ratelimit=1",
)


def test_its_metrics_ask_for_the_password(flower: FlowerServer) -> None:
    url = f"{flower.url}/metrics"
    assert requests.get(url, timeout=20).status_code == 401
    assert requests.get(url, auth=AUTH, timeout=20).status_code == 200


def test_pages_of_other_sites_cancel_nothing(flower: FlowerServer) -> None:
    """A browser sends the password along, whatever page the request comes from."""
    url = f"{flower.url}/api/task/revoke/00000000-0000-4000-8000-000000000000"
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert requests.post(url, auth=AUTH, headers=headers, timeout=20).status_code == 403
    assert requests.post(url, auth=AUTH, timeout=20).status_code == 404
    for path in ("/workers", "/tasks", "/task/nothing", "/healthcheck"):
        answer = requests.get(flower.url + path, auth=AUTH, timeout=20)
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"


def test_nothing_but_cancelling_can_be_done_from_it(flower: FlowerServer) -> None:
    for path in SWITCHED_OFF:
        refused = flower.post(path)
        assert refused.status_code == 403, path
        assert "in the console" in refused.text
    assert flower.post("/api/task/revoke/not-an-id").status_code == 404
    assert flower.post("/api/task/revoke/8a1b5f1e-0000-4000-8000-000000000000").status_code == 404


def test_workers_do_not_take_commands_that_would_starve_them(bare_stack: Stack) -> None:
    worker = bare_stack.start_worker("rest", queues="default")
    done = bare_stack.celery("control", "--timeout", "5", "cancel_consumer", "default")
    assert worker.alive
    assert "no longer consuming" not in done
