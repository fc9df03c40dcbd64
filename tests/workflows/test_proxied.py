"""A proxy, login or limit in front of ComfyUI that responds in its place: never the workflow's fault."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from comfyui import Client
from script.harness.waiting import wait_for
from tests.scripted_comfyui import PNG, NodeClass
from tests.scripted_comfyui.nodes import nothing
from tests.workflows.rig import came_back, hold_briefly, serve_again, sleep
from workflows.models import Execution


@pytest.fixture(autouse=True)
def quick(monkeypatch, settings):
    settings.STALL_SECONDS = 1
    hold_briefly(monkeypatch)


ANSWERS = [200, 302, 401, 403, 404, 407, 413, 429, 502, 503, 504]


@pytest.mark.parametrize("status", ANSWERS)
def test_a_prompt_rejected_by_a_proxy_has_not_started(rig, status):
    rig.comfyui.faults.proxy = status
    execution_id = rig.run(sleep(0.1))
    for tries in (1, 2):
        wait_for_try(execution_id, tries)  # it may take no longer than a moment
        row = Execution.objects.get(id=execution_id)
        assert (row.tries, row.faults, row.returns, row.started_at) == (tries, 0, 0, None)
        if tries == 1:
            serve_again(rig)
    rig.comfyui.faults.proxy = None
    wait_for(lambda: rig.backend.ready, what="the rest to be over")
    serve_again(rig)
    rig.ends(execution_id, "completed")
    rig.is_clear()


def wait_for_try(execution_id: str, number: int) -> None:
    """Until it came back from this one."""
    back = Execution.objects.filter(id=execution_id, held="backoff", tries=number)
    wait_for(back.exists, what=f"try {number}")


def test_a_workflow_larger_than_the_proxy_accepts_fails_after_three_tries(rig):
    """Other requests get through, so it is the size of this one."""
    rig.comfyui.faults.page["/prompt"] = 413
    execution_id = rig.run(sleep(0.1))
    for tries in (1, 2):
        wait_for_try(execution_id, tries)
        serve_again(rig)
    body = rig.ends(execution_id, "failed")
    assert "larger than the proxy in front of ComfyUI accepts" in body["error"]
    rig.is_clear()


def test_an_input_larger_than_the_proxy_accepts_fails_after_three_tries(rig):
    rig.comfyui.classes["LoadImage"] = NodeClass(
        run=nothing, required={"image": ["STRING"]}, returns=("IMAGE",)
    )
    rig.backend.forget_capabilities()
    rig.backend.refresh()
    rig.comfyui.faults.page["/upload/image"] = 413
    picture = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    workflow = sleep(0.1) | {"1": {"class_type": "LoadImage", "inputs": {"image": picture}}}
    execution_id = rig.run(workflow)
    for tries in (1, 2):
        wait_for_try(execution_id, tries)
        serve_again(rig)
    assert "the proxy in front of its ComfyUI" in rig.ends(execution_id, "failed")["error"]
    rig.is_clear()


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_expires_in_mid_run_is_not_the_workflows_fault(rig, status):
    execution_id = rig.run(sleep(20))
    wait_for(lambda: rig.status(execution_id) == "running", what="it to run")
    rig.comfyui.drop_sockets()  # so that it is looked for at once
    rig.comfyui.faults.proxy = status
    row = wait_for(lambda: came_back(execution_id), what="it to come back")
    assert row.faults == 0
    assert rig.slots.wait_empty(timeout=20)


def test_a_comfyui_that_dies_behind_its_proxy_in_mid_run_still_counts(rig):
    execution_id = rig.run(sleep(20))
    wait_for(lambda: rig.status(execution_id) == "running", what="it to run")
    rig.comfyui.drop_sockets()
    rig.comfyui.faults.proxy = 502
    row = wait_for(lambda: came_back(execution_id), what="it to come back")
    assert row.faults == 1


def test_a_cancelled_run_that_cannot_be_cleared_frees_its_slot_and_is_cleared_later(rig):
    execution_id = rig.run(sleep(60))
    wait_for(lambda: rig.status(execution_id) == "running", what="it to run")
    rig.comfyui.faults.proxy = 401
    asked = len(rig.comfyui.requests)
    assert rig.cancel(execution_id) == 200
    assert rig.slots.wait_empty(timeout=20)
    assert len(rig.comfyui.requests) - asked < 10
    assert rig.backend.orphans.is_set()
    rig.comfyui.faults.proxy = None
    rig.backend.cancel_orphan_prompts()
    rig.comfyui.wait_for(lambda: rig.comfyui.running is None)
    rig.is_clear()


def test_a_502_after_comfyui_accepted_the_prompt_runs_it_once(rig, monkeypatch):
    original = Client.submit

    def submit(client: Client, **given: Any) -> Any:
        """As if it was forwarded, and only the answer was lost."""
        original(client, **given)
        rig.comfyui.faults.status["/prompt"] = 502
        return original(client, **given)

    monkeypatch.setattr(Client, "submit", submit)
    rig.ends(rig.run(sleep(0.3)), "completed")
    row = Execution.objects.get()
    assert (row.attempt, row.tries) == (1, 0)
    rig.is_clear()
