"""Workers that die, stop or freeze while the run continues in a real ComfyUI."""

from __future__ import annotations

import signal
import socket
import uuid
from functools import partial

import pytest
import requests

from script.harness import graphs
from script.harness.graphs import sleep
from script.harness.waiting import wait_for
from script.local import ports
from tests.scripted_comfyui import ScriptedComfyUI
from tests.workflows.rig import sleep as scripted_sleep
from tests.workflows.test_many_workers import start_pair
from workflows.queue import state_machine

QUICK = {"LEASE_SECONDS": "6", "RENEW_SECONDS": "1", "RESERVED_SECONDS": "2"}


@pytest.fixture
def gate() -> str:
    """The name of a gate that is closed: see `graphs.gate`."""
    return uuid.uuid4().hex


def wait_status(person, execution_id: str, status: str, *, seconds: float = 30) -> None:
    wait_for(
        lambda: person.get(f"/workflows/{execution_id}/status").json()["status"] == status,
        seconds=seconds,
        what=f"{status}",
    )


def posts(comfyui, execution_id: str) -> int:
    """How often ComfyUI was given the prompt, by its own log."""
    state = requests.get(f"{comfyui.url}/queue", timeout=30).json()
    return sum(item[1] == execution_id for item in state["queue_running"] + state["queue_pending"])


def has_fetched(comfyui: ScriptedComfyUI, name: str, *, more_than: int) -> bool:
    """Whether the file with this part in its name was requested so often."""
    return sum(name in view.query for view in comfyui.asked("GET", "/view")) > more_than


def messages(person, execution_id: str) -> list[str]:
    return [line["message"] for line in person.get(f"/workflows/{execution_id}/logs").json()["logs"]]


def attempts(stack, execution_id: str) -> int:
    return stack.sql("SELECT attempt FROM workflows_execution WHERE id = %s", execution_id)[0][0]


def test_a_killed_worker_started_again_joins_the_run(bare_stack, comfyui, gate):
    stack = bare_stack
    person = stack.person("killed")
    worker = stack.start_worker("dies", comfyui_url=comfyui.url)
    execution_id = person.execute(graphs.gate(gate))
    wait_status(person, execution_id, "running")
    worker.kill()
    stack.start_worker("dies", comfyui_url=comfyui.url)
    joined = "Found in ComfyUI and joined"
    wait_for(lambda: joined in messages(person, execution_id), seconds=30, what="it to be joined")
    comfyui.open_gate(gate)
    result = person.result(execution_id)
    assert result["status"] == "completed"
    assert attempts(stack, execution_id) == 1
    said = messages(person, execution_id)
    assert said.count("Starting workflow execution") == 1


def test_a_run_that_ended_without_a_worker_is_collected(bare_stack, comfyui, gate):
    stack = bare_stack
    person = stack.person("collected")
    worker = stack.start_worker("away", comfyui_url=comfyui.url)
    execution_id = person.execute(graphs.gate(gate))
    wait_status(person, execution_id, "running")
    worker.kill()
    comfyui.open_gate(gate)
    wait_for(lambda: not posts(comfyui, execution_id), what="ComfyUI to end it")
    stack.start_worker("away", comfyui_url=comfyui.url)
    assert person.result(execution_id)["status"] == "completed"
    assert attempts(stack, execution_id) == 1


def test_a_worker_killed_for_good_leaves_its_run_to_another_backend(bare_stack, comfyui_pair, gate):
    stack = bare_stack
    person = stack.person("for-good")
    start_pair(stack, comfyui_pair, **QUICK)
    execution_id = person.execute(graphs.gate(gate))
    wait_status(person, execution_id, "running")
    [(name,)] = stack.sql("SELECT worker FROM workflows_execution WHERE id = %s", execution_id)
    stack.workers[name].kill()
    for comfyui in comfyui_pair:
        comfyui.open_gate(gate)
    result = person.result(execution_id, seconds=60)
    assert result["status"] == "completed"
    assert attempts(stack, execution_id) == 2
    [(second,)] = stack.sql("SELECT worker FROM workflows_execution WHERE id = %s", execution_id)
    assert second != name


def test_sigterm_leaves_the_run_in_comfyui_for_the_next_worker(bare_stack, comfyui, gate):
    stack = bare_stack
    person = stack.person("sigterm")
    env = {"DRAIN_SECONDS": "1"}
    worker = stack.start_worker("stops", comfyui_url=comfyui.url, env=env)
    running = person.execute(graphs.gate(gate))
    staged = person.execute(sleep(0.5, seed=45))
    wait_status(person, running, "running")
    wait_for(lambda: posts(comfyui, staged), what="the second to be staged")
    worker.signal(signal.SIGTERM)
    wait_for(lambda: not worker.alive, seconds=25, what="the worker to end")
    assert posts(comfyui, running) == 1
    assert posts(comfyui, staged) == 0
    assert person.get(f"/workflows/{staged}/status").json()["queue_position"] is not None
    comfyui.open_gate(gate)
    stack.start_worker("stops", comfyui_url=comfyui.url)
    assert person.result(running)["status"] == "completed"
    assert person.result(staged)["status"] == "completed"
    assert attempts(stack, running) == 1


def test_sigterm_lets_a_short_run_finish(bare_stack, comfyui, gate):
    stack = bare_stack
    person = stack.person("drain")
    worker = stack.start_worker("drains", comfyui_url=comfyui.url, env={"DRAIN_SECONDS": "20"})
    execution_id = person.execute(graphs.gate(gate))
    wait_status(person, execution_id, "running")
    worker.signal(signal.SIGTERM)
    comfyui.open_gate(gate)
    wait_for(lambda: not worker.alive, seconds=25, what="the worker to end")
    assert person.get(f"/workflows/{execution_id}").json()["status"] == "completed"


def test_comfyui_dead_in_mid_run_is_run_again_when_it_is_back(bare_stack, comfyui, gate):
    stack = bare_stack
    person = stack.person("comfyui-dies")
    stack.start_worker("comfy", comfyui_url=comfyui.url)
    execution_id = person.execute(graphs.gate(gate))
    wait_status(person, execution_id, "running")
    comfyui.kill()
    comfyui.open_gate(gate)
    comfyui.start()
    result = person.result(execution_id, seconds=60)
    assert result["status"] == "completed"
    assert attempts(stack, execution_id) == 2


@pytest.mark.timeout(240)  # ComfyUI starts three times
def test_a_workflow_that_kills_comfyui_twice_is_poison(bare_stack, comfyui):
    stack = bare_stack
    person = stack.person("poison")
    stack.start_worker("poisoned", comfyui_url=comfyui.url)
    workflow = graphs.colour(3)
    workflow["3"] = {"class_type": "TestCrash", "inputs": {"image": ["1", 0]}}
    workflow["2"]["inputs"]["images"] = ["3", 0]
    execution_id = person.execute(workflow)

    def ended() -> bool:
        # Not to be waited for: it may die again before anybody but the worker has seen it alive.
        comfyui.begin()
        return person.get(f"/workflows/{execution_id}").json()["status"] == "failed"

    wait_for(ended, seconds=150, what="the end")
    assert person.result(execution_id)["error"].startswith("Given up after 2 attempts: ")


def test_a_frozen_worker_that_wakes_after_another_took_over_changes_nothing(bare_stack, comfyui_pair, gate):
    stack = bare_stack
    person = stack.person("frozen")
    start_pair(stack, comfyui_pair, **QUICK)
    execution_id = person.execute(graphs.gate(gate))
    wait_status(person, execution_id, "running")
    [(name,)] = stack.sql("SELECT worker FROM workflows_execution WHERE id = %s", execution_id)
    frozen = stack.workers[name]
    frozen.signal(signal.SIGSTOP)
    wait_for(
        lambda: stack.sql("SELECT worker FROM workflows_execution WHERE id = %s", execution_id)[0][0] != name,
        seconds=40,
        what="another worker to take it",
    )
    frozen.signal(signal.SIGCONT)
    for comfyui in comfyui_pair:
        comfyui.open_gate(gate)
    result = person.result(execution_id, seconds=60)
    assert result["status"] == "completed"
    assert len(result["outputs"]["images"]) == 1
    said = messages(person, execution_id)
    assert said.count("Workflow completed successfully") == 1
    wait_for(lambda: not any(posts(each, execution_id) for each in comfyui_pair), what="no copy to be left")


def test_a_second_worker_for_one_backend_takes_nothing(bare_stack, comfyui):
    stack = bare_stack
    person = stack.person("twice")
    first = stack.start_worker("first", comfyui_url=comfyui.url)
    second = stack.start_worker("second", comfyui_url=comfyui.url)
    ids = [person.execute(graphs.colour(100 + i)) for i in range(6)]
    assert {person.result(execution_id)["status"] for execution_id in ids} == {"completed"}
    wait_for(
        lambda: any("another process serves backend" in line for line in second.tail(200)),
        seconds=30,
        what="the second to say so",
    )
    first.kill()
    last = person.execute(graphs.colour(200))
    assert person.result(last, seconds=60)["status"] == "completed"


def test_a_worker_that_starts_without_redis_works(bare_stack, comfyui):
    stack = bare_stack
    person = stack.person("no-redis")
    nowhere = {"REDIS_URL": f"redis://127.0.0.1:{ports.free_port()}/0"}
    stack.start_worker("lonely", comfyui_url=comfyui.url, env=nowhere, wait=False)
    assert person.result(person.execute(graphs.colour(44)), seconds=40)["status"] == "completed"


def test_inputs_that_kill_their_worker_twice_are_poison(bare_stack, comfyui):
    """A server that never answers holds the execution in its preparation; what kills there is a stand-in."""
    stack = bare_stack
    person = stack.person("deadly")
    with socket.create_server(("127.0.0.77", 0)) as server:
        server.settimeout(30)
        address = f"http://127.0.0.77:{server.getsockname()[1]}/a.png"
        graph = {
            "1": {"class_type": "LoadImage", "inputs": {"image": address}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        }
        execution_id = person.execute(graph)
        for _ in range(2):
            worker = stack.start_worker("prepares", comfyui_url=comfyui.url)
            connection, _ = server.accept()
            with connection:
                worker.kill()
        stack.start_worker("prepares", comfyui_url=comfyui.url)
        result = person.result(execution_id, seconds=60)
    assert result["status"] == "failed"
    assert result["error"] == state_machine.KILLED_WORKER


def test_outputs_that_kill_their_worker_twice_fail_without_affecting_others(bare_stack):
    stack = bare_stack
    culprit, innocent = stack.person("deadly"), stack.person("innocent")
    with ScriptedComfyUI() as comfyui:
        comfyui.faults.hang_on.add("deadly")  # what kills while it is fetched is a stand-in
        deadly = ""
        for fetched in range(2):
            worker = stack.start_worker("collects", comfyui_url=comfyui.url)
            if not deadly:
                deadly = culprit.execute(graphs.colour(1, prefix="deadly"))
                beside = innocent.execute(scripted_sleep(2))
            wait_for(
                partial(has_fetched, comfyui, "deadly", more_than=fetched),
                seconds=40,
                what="the output's file",
            )
            worker.kill()
        stack.start_worker("collects", comfyui_url=comfyui.url)
        assert culprit.result(deadly)["error"] == state_machine.KILLED_WORKER
        assert innocent.result(beside)["status"] == "completed"
        # It may have been cut off on its way into ComfyUI, which is nobody's fault.
        assert stack.sql("SELECT faults FROM workflows_execution WHERE id = %s", beside) == [(0,)]
