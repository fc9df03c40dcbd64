"""POST /models/{name}/download and related routes, with a real worker and a real ComfyUI."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from script.harness import graphs
from script.harness.stack import Person
from script.harness.waiting import wait_for
from tests.models_registry.conftest import CHECKPOINT, LISTED
from tests.models_registry.sources import Source, serving

WORKER = "downloads"
ALLOWED = {"OUTBOUND_ALLOW": "127.0.0.1", "MODEL_DISK_RESERVE_BYTES": "1000"}


@pytest.fixture(scope="module")
def web(_stack):
    """One that lets a worker be asked to fetch from this machine."""
    _stack.start_web(env=ALLOWED)
    yield
    _stack.end_worker("downloads")
    _stack.stop_web()


@pytest.fixture
def worker(web, stack, comfyui):
    """A worker that may, for all tests of this file."""
    start_worker(stack, comfyui)
    return WORKER


def start_worker(stack, comfyui):
    named = ALLOWED | {"COMFYUI_NAME": WORKER}
    stack.start_worker("downloads", comfyui_url=comfyui.url, env=named, keep=True)


@pytest.fixture
def person(stack, worker):
    person = stack.person()

    def worker_is_listed():
        status = person.get(f"/models/{CHECKPOINT}")
        return status.ok and worker in [
            each["worker"] for each in status.json()["workers"] if each["is_alive"]
        ]

    wait_for(worker_is_listed, seconds=LISTED, what="the worker's report")
    return person


@pytest.fixture
def checkpoint(person, comfyui):
    """The bytes of the checkpoint; what tests fetched is deleted afterwards."""
    folder = Path(comfyui.folder) / "models" / "checkpoints"
    before = set(folder.rglob("*"))
    yield Path(person.get(f"/models/{CHECKPOINT}").json()["file_path"]).read_bytes()
    for path in sorted(set(folder.rglob("*")) - before, reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.fixture
def source(checkpoint):
    with serving(Source(checkpoint)) as source:
        yield source


def download(person, name, url, **more):
    query = {"model_type": "checkpoint", "download_url": url, "worker": WORKER, **more}
    return person.post(f"/models/{name}/download", params=query)


def progress(person, name):
    answer = person.get(f"/models/{name}/download-progress")
    assert answer.status_code == 200, answer.text
    return answer.json()


def ended(person, name):
    return wait_for(
        lambda: (shown := progress(person, name))["status"] not in ("waiting", "running") and shown,
        seconds=90,
        what="the end of the download",
    )


def test_a_model_is_fetched_over_a_line_that_is_cut_and_used_at_once(person, source):
    name, source.cuts = "cut/three-times.safetensors", 3
    answer = download(person, name, source.url, description="from a test")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "message": "Model download started",
        "model_name": name,
        "model_type": "checkpoint",
        "workers": [WORKER],
    }
    size = len(source.content)
    assert ended(person, name) == {
        "model_name": name, "is_downloading": False, "download_progress": None, "is_available": True,
        "status": "done", "bytes_done": size, "bytes_total": size, "error": None,
    }  # fmt: skip
    assert source.sent == len(source.content)
    status = person.get(f"/models/{name}").json()
    assert status["is_available"] is True
    assert status["hash"]
    assert status["description"] == "from a test"
    graph = graphs.txt2img(steps=1)
    graph["1"]["inputs"]["ckpt_name"] = name
    result = person.result(person.execute(graph), seconds=60)
    assert result["status"] == "completed", result


def test_a_running_download_is_listed_and_can_be_cancelled(person, source):
    name, source.paused = "paused.safetensors", threading.Event()
    assert download(person, name, source.url).status_code == 200
    assert source.half_sent.wait(60)
    half = len(source.content) // 2
    shown = wait_for(
        lambda: (seen := progress(person, name))["bytes_done"] > half * 0.9 and seen,
        seconds=60,
        what="half of it",
    )
    assert shown["is_downloading"] is True
    assert shown["is_available"] is False
    assert 0.4 < shown["download_progress"] < 0.6
    assert shown["bytes_total"] == len(source.content)
    [listed] = [each for each in person.get("/models/").json()["models"] if each["name"] == name]
    assert (listed["is_downloading"], listed["is_loaded"]) == (True, False)
    stranger = Person(person.url, "stranger-to-downloads")
    refused = stranger.session.delete(f"{person.url}/models/{name}/download", timeout=30)
    assert refused.status_code == 403, refused.text
    assert progress(person, name)["is_downloading"] is True
    assert not [
        each for each in person.get("/models/?available_only=true").json()["models"] if each["name"] == name
    ]
    again = download(person, name, source.url)  # joins the one under way
    assert again.status_code == 200
    other = download(person, name, f"{source.url}?another=1")
    assert other.status_code == 409
    assert "cancel that download" in other.json()["message"]
    assert len(source.asked) == 1
    answer = person.session.delete(f"{person.url}/models/{name}/download", timeout=30)
    assert answer.status_code == 200, answer.text
    source.paused.set()
    assert progress(person, name)["status"] == "cancelled"
    assert person.session.delete(f"{person.url}/models/{name}/download", timeout=30).status_code == 404


def test_a_killed_worker_resumes_where_it_was(person, source, stack, comfyui):
    name, source.paused = "killed.safetensors", threading.Event()
    assert download(person, name, source.url).status_code == 200
    wait_for(lambda: progress(person, name)["bytes_done"], seconds=60, what="the first bytes")
    stack.workers["downloads"].kill()
    source.paused.set()
    start_worker(stack, comfyui)
    assert ended(person, name)["status"] == "done"
    assert "Range" in source.asked[1]


def test_the_reason_of_a_failure_is_shown(person, source):
    name = "gone.safetensors"
    source.answers = [(404, {}, b"")]
    assert download(person, name, source.url).status_code == 200
    shown = ended(person, name)
    assert (shown["status"], shown["is_available"]) == ("failed", False)
    assert "no such file" in shown["error"]
    assert person.get(f"/models/{name}").status_code == 404


def test_a_model_that_exists_already_is_a_conflict(person, source):
    assert download(person, CHECKPOINT, source.url).status_code == 409
