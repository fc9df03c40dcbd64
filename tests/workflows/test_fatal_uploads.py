"""An input file that kills ComfyUI while it is uploaded costs its owner's execution, and nobody else's."""

from __future__ import annotations

import base64
import contextlib

import pytest

from script.harness.waiting import wait_for
from tests.scripted_comfyui import PNG, NodeClass
from tests.scripted_comfyui.nodes import nothing
from tests.workflows.rig import Rig, before, hold_briefly, serve_again, sleep
from workflows.models import Execution
from workflows.worker import fatal_uploads, finalize, runner

PICTURE = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
UPLOAD = "/upload/image"


@pytest.fixture(autouse=True)
def quick(monkeypatch, settings):
    settings.STALL_SECONDS = 1
    monkeypatch.setattr(runner, "GONE_SECONDS", 0.3)
    hold_briefly(monkeypatch)


def with_fatal_upload(rig: Rig) -> str:
    """With an input, whose upload is not answered: ComfyUI is stopped meanwhile."""
    rig.comfyui.classes["LoadImage"] = NodeClass(
        run=nothing, required={"image": ["STRING"]}, returns=("IMAGE",)
    )
    rig.backend.forget_capabilities()
    rig.backend.refresh()
    rig.comfyui.faults.hang.add(UPLOAD)
    return rig.run(sleep(0.1) | {"1": {"class_type": "LoadImage", "inputs": {"image": PICTURE}}})


def kill_at_upload(rig: Rig, number: int) -> None:
    rig.comfyui.wait_for(lambda: len(rig.comfyui.asked("POST", UPLOAD)) >= number, timeout=20)
    rig.comfyui.stop()


def start_again(rig: Rig) -> None:
    generation = rig.backend.session.generation
    rig.comfyui.start()
    rig.reconnect(since=generation)
    wait_for(lambda: rig.backend.ready, what="the worker to trust its ComfyUI again")
    serve_again(rig)


def held(*ids: str) -> bool:
    found = Execution.objects.filter(id__in=ids, status="pending", claim_token=None)
    return found.count() == len(ids)


def test_only_the_owner_is_charged_and_only_for_its_own_run(rig, monkeypatch):
    def uploaded_meanwhile(*_: object, **__: object) -> None:
        """Long enough for the suspect to look twice whether it may upload."""
        with contextlib.suppress(TimeoutError):
            rig.comfyui.wait_for(
                lambda: len(rig.comfyui.asked("POST", UPLOAD)) > 1, timeout=2.5 * fatal_uploads.CHECK_SECONDS
            )
        uploads.append(len(rig.comfyui.asked("POST", UPLOAD)))

    uploads: list[int] = []
    before(monkeypatch, finalize, "conclude", uploaded_meanwhile)
    innocent = rig.run_at_gate()
    guilty = with_fatal_upload(rig)
    kill_at_upload(rig, 1)
    rig.comfyui.gate.set()  # for its second run
    wait_for(lambda: held(innocent, guilty), seconds=20, what="both to come back")
    faults = dict(Execution.objects.values_list("id", "faults"))
    assert set(faults.values()) == {0}

    start_again(rig)
    kill_at_upload(rig, 2)
    assert uploads == [1], "it waits until the outputs of what ran are stored"
    assert Execution.objects.get(id=innocent).status == "completed"
    wait_for(lambda: Execution.objects.get(id=guilty).faults == 1, seconds=20, what="it to be charged")

    start_again(rig)
    kill_at_upload(rig, 3)
    assert "Given up after 2 attempts" in rig.ends(guilty, "failed")["error"]
    assert Execution.objects.get(id=innocent).faults == 0


def test_an_execution_whose_upload_was_interrupted_once_completes(rig):
    execution_id = with_fatal_upload(rig)
    kill_at_upload(rig, 1)
    wait_for(lambda: held(execution_id), seconds=20, what="it to come back")
    rig.comfyui.faults.hang.clear()
    start_again(rig)
    rig.ends(execution_id, "completed")
