"""POST /workflows/{id}/cancel while it runs, on a real ComfyUI."""

from __future__ import annotations

from uuid import uuid4

import pytest
import requests

from script.harness import graphs
from script.harness.waiting import wait_for


@pytest.fixture
def person(gpu_worker):
    return gpu_worker.person()


def wait_running(person, execution_id: str) -> None:
    wait_for(
        lambda: person.get(f"/workflows/{execution_id}/status").json()["status"] == "running",
        what=f"{execution_id} to run",
    )


def queue_of(comfyui) -> list[str]:
    state = requests.get(f"{comfyui.url}/queue", timeout=30).json()
    return [item[1] for item in state["queue_running"] + state["queue_pending"]]


def test_it_is_terminal_at_once_and_comfyui_stops(person, comfyui):
    execution_id = person.execute(graphs.sleep(60, seed=11))
    wait_running(person, execution_id)
    answer = person.post(f"/workflows/{execution_id}/cancel")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"message": "Workflow cancelled successfully"}
    assert person.get(f"/workflows/{execution_id}").json()["status"] == "cancelled"
    wait_for(lambda: execution_id not in queue_of(comfyui), seconds=20, what="ComfyUI to stop")


def test_a_second_cancel_is_a_conflict(person):
    execution_id = person.execute(graphs.sleep(60, seed=12))
    wait_running(person, execution_id)
    assert person.post(f"/workflows/{execution_id}/cancel").status_code == 200
    again = person.post(f"/workflows/{execution_id}/cancel")
    assert again.status_code == 409
    assert again.json()["error"] == "conflict"


def test_the_one_behind_it_is_not_harmed(person):
    running = person.execute(graphs.sleep(60, seed=13))
    behind = person.execute(graphs.colour(0x445566))
    wait_running(person, running)
    assert person.post(f"/workflows/{running}/cancel").status_code == 200
    assert person.result(behind)["status"] == "completed"


def test_the_staged_one_can_be_cancelled_without_harm_to_the_running_one(person, comfyui):
    gate_name = uuid4().hex
    running = person.execute(graphs.gate(gate_name))
    staged = person.execute(graphs.colour(0x223344))
    wait_for(lambda: staged in queue_of(comfyui), what="the second to be staged")
    assert person.post(f"/workflows/{staged}/cancel").status_code == 200
    wait_for(lambda: staged not in queue_of(comfyui), what="it to leave ComfyUI's queue")
    comfyui.open_gate(gate_name)
    assert person.result(running)["status"] == "completed"
    assert person.get(f"/workflows/{staged}").json()["status"] == "cancelled"


def test_a_time_out_ends_the_run_with_a_clear_error(person, comfyui, gpu_worker):
    execution_id = person.execute(graphs.sleep(60, seed=15), timeout_minutes=1)
    wait_running(person, execution_id)
    # A minute is long for a test: move the clock of this one, and let the next worker process take it up.
    gpu_worker.workers["gpu-kept"].kill()
    gpu_worker.sql(
        "UPDATE workflows_execution SET started_at = started_at - interval '59 seconds' WHERE id = %s",
        execution_id,
    )
    gpu_worker.start_worker("gpu-kept", comfyui_url=comfyui.url, keep=True)
    result = person.result(execution_id)
    assert result["status"] == "failed"
    assert result["error"] == "Timed out: it ran longer than 1 minute"
    assert result["error_details"]["type"] == "timeout"
    wait_for(lambda: execution_id not in queue_of(comfyui), what="ComfyUI to stop")
