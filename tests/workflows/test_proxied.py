"""A proxy, a login or a limit before ComfyUI that answers in its place. No workflow is to blame for that."""

from __future__ import annotations

from typing import Any

import pytest

from comfyui import Client
from script.harness.waiting import wait_for
from tests.workflows.rig import came_back, hold_briefly, serve_again, sleep
from workflows.models import Execution


@pytest.fixture(autouse=True)
def quick(monkeypatch, settings):
    settings.STALL_SECONDS = 1
    hold_briefly(monkeypatch)


ANSWERS = [200, 302, 401, 403, 404, 407, 429, 502, 503, 504]


@pytest.mark.parametrize("status", ANSWERS)
def test_what_a_proxy_did_not_let_through_has_not_begun(rig, status):
    rig.comfyui.faults.proxy = status
    execution_id = rig.run(sleep(0.1))
    for tries in (1, 2):
        row = wait_for(lambda: came_back(execution_id), what="it to come back")
        assert (row.tries, row.faults, row.returns, row.started_at) == (tries, 0, 0, None)
        if tries == 1:
            serve_again(rig)
            wait_for(lambda: not came_back(execution_id), what="the next try")
    rig.comfyui.faults.proxy = None
    wait_for(lambda: rig.backend.ready, what="the rest to be over")
    serve_again(rig)
    rig.ends(execution_id, "completed")
    rig.is_clear()


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_expires_in_mid_run_is_not_the_workflows_fault(rig, status):
    execution_id = rig.run(sleep(20))
    wait_for(lambda: rig.status(execution_id) == "running", what="it to run")
    rig.comfyui.drop_sockets()  # so that it is looked for at once
    rig.comfyui.faults.proxy = status
    row = wait_for(lambda: came_back(execution_id), what="it to come back")
    assert row.faults == 0
    assert rig.slots.wait_empty(timeout=5)


def test_a_comfyui_that_dies_behind_its_proxy_in_mid_run_still_counts(rig):
    execution_id = rig.run(sleep(20))
    wait_for(lambda: rig.status(execution_id) == "running", what="it to run")
    rig.comfyui.drop_sockets()
    rig.comfyui.faults.proxy = 502
    row = wait_for(lambda: came_back(execution_id), what="it to come back")
    assert row.faults == 1


def test_a_cancelled_run_that_can_not_be_cleared_keeps_no_slot_and_is_cleared_later(rig):
    execution_id = rig.run(sleep(60))
    wait_for(lambda: rig.status(execution_id) == "running", what="it to run")
    rig.comfyui.faults.proxy = 401
    asked = len(rig.comfyui.requests)
    assert rig.cancel(execution_id) == 200
    assert rig.slots.wait_empty(timeout=5)
    assert len(rig.comfyui.requests) - asked < 10
    assert rig.backend.strays.is_set()
    rig.comfyui.faults.proxy = None
    rig.backend.cancel_orphan_prompts()
    rig.comfyui.wait_for(lambda: rig.comfyui.running is None)
    rig.is_clear()


def test_a_502_after_comfyui_had_taken_it_runs_it_once(rig, monkeypatch):
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
