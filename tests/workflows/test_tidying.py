"""Cleanup on a real ComfyUI: folders, history, and unused inputs."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import pytest
import requests
from PIL import Image

from script.harness import graphs
from script.harness.graphs import sleep
from script.harness.waiting import wait_for
from tests.files.conftest import picture, uploaded
from tests.workflows.test_worker_death import wait_status

OLD = time.time() - 25 * 3600


def left(comfyui) -> set[str]:
    """All files in the folders that ComfyUI writes to."""
    # `rglob` would raise an error for a folder that is deleted at that moment.
    found = [
        Path(folder, name)
        for place in ("output", "temp")
        for folder, folders, files in os.walk(comfyui.folder / place)
        for name in (*folders, *files)
    ]
    return {path.relative_to(comfyui.folder).as_posix() for path in found}


def history(comfyui) -> set[str]:
    return set(requests.get(f"{comfyui.url}/history", timeout=30).json())


def placed(comfyui) -> set[str]:
    return {path.name for path in (comfyui.folder / "input" / "comfyserve").glob("*")}


def put_input(comfyui) -> Path:
    """As an earlier worker would have placed it, long ago."""
    path: Path = comfyui.folder / "input" / "comfyserve" / f"{uuid.uuid4().hex * 2}.png"
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), tuple(os.urandom(3))).save(path)
    os.utime(path, (OLD, OLD))
    return path


def put_marked(comfyui, execution_id: str, *, at: float | None = None) -> Path:
    folder: Path = comfyui.folder / "output" / f"{execution_id}.1"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"x")
    if at is not None:
        os.utime(folder, (at, at))
    return folder


@pytest.fixture
def person(gpu_worker):
    return gpu_worker.person("tidy")


def test_after_a_run_nothing_is_left_in_outputs_temp_and_history(person, comfyui):
    """Saved under our mark; shown (a preview has no prefix); saved under a prefix that comes by a link."""
    workflow = graphs.colour(7, prefix="sub/kept") | {
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        "4": {"class_type": "PrimitiveString", "inputs": {"value": "linked"}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": ["4", 0]}},
    }
    before = left(comfyui)
    result = person.result(person.execute(workflow))
    assert len(result["outputs"]["images"]) == 3, result
    wait_for(lambda: left(comfyui) <= before, what="its files to go")
    wait_for(lambda: result["execution_id"] not in history(comfyui), what="its history to go")


def test_after_a_failed_run_nothing_is_left_either(person, comfyui):
    workflow = graphs.colour(8) | {
        "3": {"class_type": "TestFail", "inputs": {"image": ["1", 0], "message": "broken on purpose"}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }
    before = left(comfyui)
    result = person.result(person.execute(workflow))
    assert result["status"] == "failed"
    wait_for(lambda: left(comfyui) <= before, what="its files to go")
    wait_for(lambda: result["execution_id"] not in history(comfyui), what="its history to go")


def test_an_input_stays_for_the_next_execution(person, comfyui):
    file_id = uploaded(person, picture(), "cat.png")
    workflow = graphs.colour(9) | {
        "3": {"class_type": "LoadImage", "inputs": {"image": file_id}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }
    before = placed(comfyui)
    assert person.result(person.execute(workflow))["status"] == "completed"
    assert len(placed(comfyui) - before) == 1


def test_a_new_worker_removes_what_is_left_and_keeps_what_is_needed(bare_stack, comfyui):
    stack = bare_stack
    person = stack.person("tidy")
    env = {"COMFYUI_INPUTS_KEPT_SECONDS": "0"}
    worker = stack.start_worker("sweeps", comfyui_url=comfyui.url)
    cancelled = person.execute(graphs.colour(3))
    person.result(cancelled)
    workflow = sleep(100, steps=1000, seed=4) | {
        "3": {"class_type": "LoadImage", "inputs": {"image": uploaded(person, picture())}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "early"}},
    }
    running = person.execute(workflow)
    wait_status(person, running, "running")
    own = comfyui.folder / "output" / f"{cancelled}.1"
    wait_for(lambda: not own.exists(), what="the first worker to delete its files")
    worker.kill()
    [needed] = [name for name in placed(comfyui) if name in str(requests.get(f"{comfyui.url}/queue").json())]
    gone = [
        put_marked(comfyui, cancelled),
        put_marked(comfyui, str(uuid.uuid4()), at=OLD),
        put_input(comfyui),
    ]
    strange = put_marked(comfyui, str(uuid.uuid4()))
    others = comfyui.folder / "input" / "comfyserve" / "by-hand.png"
    others.write_bytes(b"x")
    stack.start_worker("sweeps", comfyui_url=comfyui.url, env=env)
    wait_for(lambda: not any(path.exists() for path in gone), seconds=60, what="what is left to go")
    assert needed in placed(comfyui)
    person.post(f"/workflows/{running}/cancel")
    wait_for(
        lambda: not requests.get(f"{comfyui.url}/queue", timeout=30).json()["queue_running"], what="its end"
    )
    assert strange.exists(), "it may be another installation's"
    assert others.exists()


def test_an_input_that_was_damaged_is_placed_again(bare_stack, comfyui):
    """Whoever dies in writing leaves a part under the whole name."""
    stack = bare_stack
    person = stack.person("tidy")
    stack.start_worker("replaces", comfyui_url=comfyui.url)
    file_id = uploaded(person, picture(size=(64, 64)), "cat.png")
    workflow = graphs.colour(9) | {
        "3": {"class_type": "LoadImage", "inputs": {"image": file_id}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }
    before = placed(comfyui)
    assert person.result(person.execute(workflow))["status"] == "completed"
    [name] = placed(comfyui) - before
    (comfyui.folder / "input" / "comfyserve" / name).write_bytes(b"half")
    again = person.result(person.execute(workflow | {"5": graphs.colour(10)["1"]}))
    assert again["status"] == "completed", again
