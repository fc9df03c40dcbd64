"""Misbehaving ComfyUIs and proxies. Whatever they do, an execution ends or is requeued."""

from __future__ import annotations

import base64

import pytest

from files.models import File
from script.harness.waiting import wait_for
from tests.scripted_comfyui import PNG, NodeClass, ScriptedComfyUI
from tests.scripted_comfyui.nodes import nothing
from tests.workflows.rig import Rig, came_back, gated, hold_briefly, serve_again, sleep
from workflows.models import Execution, Output
from workflows.worker import finalize, output_collection, runner

PICTURE = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


@pytest.fixture(autouse=True)
def quick(monkeypatch, settings):
    settings.STALL_SECONDS = 1
    hold_briefly(monkeypatch)
    monkeypatch.setattr(finalize, "FIRST_DELAY", 0.05)
    monkeypatch.setattr(output_collection, "VIEW_TRIES", 1000)  # the tests end the trouble, however late


# -- a proxy's answers in the place of files ---------------------------------------------------------------
@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 502, 503])
def test_an_html_page_instead_of_an_output_is_not_stored(rig, status):
    rig.comfyui.faults.page["/view"] = status
    execution_id = rig.run(sleep(0.1))
    rig.comfyui.wait_for(lambda: len(rig.comfyui.asked("GET", "/view")) >= 2)
    assert rig.status(execution_id) == "running"
    rig.comfyui.faults.page.clear()
    rig.ends(execution_id, "completed")
    output = Output.objects.get()
    assert output.file is not None
    assert output.file.size == len(PNG)
    rig.is_clear()


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 502, 503])
def test_an_html_page_in_response_to_an_upload_is_not_a_refusal(rig, status):
    rig.comfyui.classes["LoadImage"] = NodeClass(
        run=nothing, required={"image": ["STRING"]}, returns=("IMAGE",)
    )
    rig.backend.forget_capabilities()
    rig.backend.refresh()
    rig.comfyui.faults.page["/upload/image"] = status
    workflow = sleep(0.1) | {"1": {"class_type": "LoadImage", "inputs": {"image": PICTURE}}}
    execution_id = rig.run(workflow)
    row = wait_for(lambda: came_back(execution_id), what="it to come back")
    assert (row.faults, row.error) == (0, None)
    rig.comfyui.faults.page.clear()
    wait_for(lambda: rig.backend.ready, what="the rest to be over")
    serve_again(rig)
    rig.ends(execution_id, "completed")
    rig.is_clear()


# -- answers that break off --------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["truncate", "shorten"])
def test_a_prompt_whose_response_is_interrupted_runs_once(rig, how):
    getattr(rig.comfyui.faults, how).add("/prompt")
    execution_id = rig.submit(sleep(0.5))
    rig.slots.serve_in_thread()
    rig.ends(execution_id, "completed")
    assert len(rig.comfyui.submissions) == 1
    assert Execution.objects.get().tries == 0
    rig.is_clear()


@pytest.mark.parametrize("how", ["truncate", "shorten"])
@pytest.mark.parametrize("path", ["/queue", "/history/{}"])
def test_an_interrupted_poll_is_repeated(rig, monkeypatch, how, path):
    monkeypatch.setattr(runner, "IDLE_SECONDS", 0.2)
    execution_id = rig.submit(gated())
    broken = getattr(rig.comfyui.faults, how)
    broken.add(path.format(execution_id))
    rig.slots.serve_in_thread()
    rig.comfyui.wait_for(lambda: rig.comfyui.asked("GET", path.format(execution_id)))
    broken.clear()
    rig.comfyui.gate.set()
    rig.ends(execution_id, "completed")
    assert len(rig.comfyui.submissions) == 1
    rig.is_clear()


def test_a_truncated_download_is_resumed(rig):
    rig.comfyui.faults.cut_files = 10
    execution_id = rig.run(sleep(0.1))
    rig.comfyui.wait_for(lambda: len(rig.comfyui.asked("GET", "/view")) >= 2)
    rig.comfyui.faults.cut_files = None
    rig.ends(execution_id, "completed")
    assert [each.size for each in File.objects.filter(kind="output")] == [len(PNG)]


@pytest.mark.parametrize("status", [401, 404, 502])
def test_a_proxy_that_refuses_websockets_lets_what_runs_end_and_begins_nothing(rig, monkeypatch, status):
    monkeypatch.setattr(runner, "IDLE_SECONDS", 0.3)
    running = rig.run(gated())
    wait_for(lambda: rig.status(running) == "running", what="it to run")
    rig.comfyui.faults.proxy_sockets = status
    rig.comfyui.drop_sockets()
    wait_for(lambda: not rig.backend.session.connected, what="the end of the connection")
    rig.comfyui.gate.set()
    rig.ends(running, "completed")
    waiting = rig.run(sleep(0.1))
    assert rig.slots.wait_empty(timeout=20)
    assert not rig.backend.reachable
    assert rig.status(waiting) == "pending"
    rig.comfyui.faults.proxy_sockets = None
    wait_for(lambda: rig.backend.session.connected, what="a new connection")
    rig.backend.refresh()
    serve_again(rig)
    rig.ends(waiting, "completed")
    assert len(rig.comfyui.submissions) == 2
    rig.is_clear()


# -- ComfyUI itself ------------------------------------------------------------------------------------------
def test_it_waits_for_a_late_history(rig):
    rig.comfyui.faults.late_history = 1.5
    execution_id = rig.run(sleep(0.1))
    rig.ends(execution_id, "completed")
    assert Output.objects.count() == 1
    assert len(rig.comfyui.submissions) == 1
    rig.is_clear()


def test_a_node_that_runs_again_and_again_never_takes_progress_back(rig):
    seen: list[float] = []
    workflow = sleep(0.3)
    workflow["1"]["inputs"]["steps"] = 2
    workflow["3"] = {"class_type": "Loop", "inputs": {"image": ["1", 0], "times": 4, "steps": 2}}
    workflow["2"]["inputs"]["images"] = ["3", 0]
    execution_id = rig.run(workflow)
    while rig.status(execution_id) in ("pending", "running"):
        seen.append(Execution.objects.get(id=execution_id).percentage)
    rig.ends(execution_id, "completed")
    assert seen == sorted(seen)
    assert max(seen, default=0) <= 100


# -- versions since 2026 -------------------------------------------------------------------------------------
@pytest.fixture
def modern_rig(transactional_db):
    with ScriptedComfyUI(modern=True) as comfyui:
        rig = Rig(comfyui)
        yield rig
        rig.close()


def test_our_ids_are_accepted_by_the_newer_versions(modern_rig):
    modern_rig.ends(modern_rig.run(sleep(0.1)), "completed")
    modern_rig.is_clear()


def test_a_class_that_a_newer_version_does_not_have_is_named(modern_rig):
    execution_id = modern_rig.submit(sleep(0.1))
    del modern_rig.comfyui.classes["Sleep"]
    modern_rig.slots.serve_in_thread()
    assert "Sleep" in modern_rig.ends(execution_id, "failed")["error"]


def test_an_upload_that_is_answered_with_an_asset_is_used_by_its_name(modern_rig, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    with path.open("rb") as stream:
        name = modern_rig.backend.client.upload("a.png", stream, subfolder="ours")
    assert name == "ours/a.png"


def test_a_cancel_is_one_request_where_comfyui_has_the_route(modern_rig):
    execution_id = modern_rig.run(sleep(30))
    wait_for(lambda: modern_rig.status(execution_id) == "running", what="it to run")
    assert modern_rig.cancel(execution_id) == 200
    modern_rig.is_clear()
    assert modern_rig.comfyui.asked("POST", f"/api/jobs/{execution_id}/cancel")
    assert modern_rig.comfyui.interrupts == []


def test_a_prompt_that_starts_while_another_is_cancelled_keeps_running(modern_rig):
    """Between a look at the queue and an interrupt the GPU may have gone on to the next prompt."""
    client = modern_rig.backend.client
    modern_rig.comfyui.hold()
    for prompt_id in ("00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"):
        client.submit(prompt=sleep(0.5), prompt_id=prompt_id, client_id="somebody")
    client.cancel("00000000-0000-4000-8000-000000000001")
    modern_rig.comfyui.release()
    modern_rig.comfyui.wait_for(lambda: len(modern_rig.comfyui.history) == 1)
    [(prompt_id, entry)] = modern_rig.comfyui.history.items()
    assert prompt_id.endswith("2")
    assert entry["status"]["status_str"] == "success"
