"""A ComfyUI that does not stop a workflow, or no longer responds because of one."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from script.harness import graphs
from script.harness.waiting import wait_for
from tests.scripted_comfyui import NodeClass
from tests.workflows.rig import Rig
from tests.workflows.test_worker_death import attempts, wait_status
from workflows.models import Execution
from workflows.worker.maintenance import Maintenance

SOON = {"HANG_SECONDS": "2", "STALL_SECONDS": "5", "LEASE_SECONDS": "6", "RENEW_SECONDS": "1"}


def hanging(*, silent: bool = False) -> graphs.Graph:
    workflow = graphs.colour(3)
    workflow["3"] = {"class_type": "TestHang", "inputs": {"image": ["1", 0], "silent": silent}}
    workflow["2"]["inputs"]["images"] = ["3", 0]
    return workflow


def faults(stack, execution_id: str) -> int:
    return stack.sql("SELECT faults FROM workflows_execution WHERE id = %s", execution_id)[0][0]


class TestWithTheBridge:
    def test_a_cancelled_workflow_that_does_not_stop_is_ended_by_a_restart(self, bare_stack, comfyui):
        stack = bare_stack
        culprit, innocent = stack.person("culprit"), stack.person("innocent")
        stack.start_worker("hangs", comfyui_url=comfyui.url, env=SOON)
        hung = culprit.execute(hanging())
        wait_status(culprit, hung, "running")
        waiting = innocent.execute(graphs.colour(7))
        assert culprit.post(f"/workflows/{hung}/cancel").status_code == 200
        assert innocent.result(waiting, seconds=60)["status"] == "completed"
        assert faults(stack, waiting) == 0
        assert attempts(stack, hung) == 1
        assert comfyui.process.alive  # it has replaced itself
        assert any("does not stop; restarting ComfyUI" in line for line in comfyui.process.tail(2000))

    def test_a_workflow_that_does_not_stop_at_its_time_limit_fails(self, bare_stack, comfyui):
        stack = bare_stack
        culprit, innocent = stack.person("culprit"), stack.person("innocent")
        hung = culprit.execute(hanging(), timeout_minutes=1)
        stack.sql("UPDATE workflows_execution SET timeout_minutes = 0 WHERE id = %s", hung)
        stack.start_worker("hangs", comfyui_url=comfyui.url, env=SOON)
        result = culprit.result(hung, seconds=60)
        assert result["status"] == "failed"
        assert result["error"].startswith("Timed out")
        waiting = innocent.execute(graphs.colour(8))
        assert innocent.result(waiting, seconds=60)["status"] == "completed"
        assert faults(stack, waiting) == 0

    @pytest.mark.timeout(240)  # ComfyUI starts three times
    def test_a_workflow_that_hangs_comfyui_twice_fails_without_affecting_others(self, bare_stack, comfyui):
        stack = bare_stack
        culprit, innocent = stack.person("culprit"), stack.person("innocent")
        stack.start_worker("silenced", comfyui_url=comfyui.url, env=SOON)
        hung = culprit.execute(hanging(silent=True))
        waiting = innocent.execute(graphs.colour(9))
        died: set[int] = set()

        def ended() -> bool:
            """The supervisor is us."""
            if not comfyui.process.alive:
                died.add(comfyui.process.pid)
                comfyui.begin()
            return culprit.get(f"/workflows/{hung}").json()["status"] == "failed"

        wait_for(ended, seconds=120, what="the end")
        assert len(died) == 2
        assert culprit.result(hung)["error"].startswith("Given up after 2 attempts: ")
        comfyui.start()
        assert innocent.result(waiting, seconds=60)["status"] == "completed"
        assert faults(stack, waiting) == 0


@pytest.fixture
def maintenance(rig: Rig) -> Any:
    rig.slots.claiming = False
    maintenance = Maintenance(rig.slots)
    maintenance.start()
    yield maintenance
    maintenance.stop()


class TestWithoutTheBridge:
    def test_nothing_is_given_to_a_comfyui_that_hangs_until_it_lets_go(
        self, rig, maintenance, settings, caplog
    ):
        async def takes_no_notice(*_: Any) -> None:
            while not rig.comfyui.gate.is_set():
                await asyncio.sleep(0.02)

        rig.comfyui.classes["Deaf"] = NodeClass(run=takes_no_notice, returns=("IMAGE",))
        settings.HANG_SECONDS = 0.3
        caplog.set_level(logging.ERROR)
        workflow = graphs.colour(1)
        workflow["3"] = {"class_type": "Deaf", "inputs": {}}
        workflow["2"]["inputs"]["images"] = ["3", 0]
        hung = rig.run(workflow)
        wait_for(lambda: rig.status(hung) == "running", what="it to run")
        staged = rig.run(graphs.colour(2))
        wait_for(lambda: rig.comfyui.pending, what="the second to be staged")
        assert rig.cancel(hung) == 200
        wait_for(lambda: rig.slots.state == "hung", what="the hang to be noticed")
        wait_for(lambda: not rig.comfyui.pending, what="the staged one to go back")
        late = rig.run(graphs.colour(4))
        assert rig.status(late) == "pending"
        assert f"it did not stop execution {hung}" in caplog.text
        rig.comfyui.gate.set()
        for execution_id in (staged, late):
            rig.ends(execution_id, "completed")
            assert Execution.objects.get(id=execution_id).faults == 0
        assert rig.slots.state == "active"
