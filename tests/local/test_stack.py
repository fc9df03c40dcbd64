"""The fixtures themselves: real processes that can be started, killed and queried."""

from __future__ import annotations

import signal

import pytest
import requests
from celery import Celery

from script.harness.stack import Stack
from script.harness.waiting import wait_for
from script.local import ports
from tests.services import TestComfyUI


def test_comfyui_runs_with_tiny_models_and_is_restarted_after_a_kill(comfyui: TestComfyUI) -> None:
    assert requests.get(f"{comfyui.url}/models/checkpoints", timeout=20).json() == ["tiny-sd15.safetensors"]
    comfyui.kill()
    assert not ports.answers("127.0.0.1", comfyui.port)
    comfyui.start()
    assert "TestSleep" in requests.get(f"{comfyui.url}/object_info/TestSleep", timeout=20).json()


def test_a_worker_listens_to_the_shared_queue_and_its_own(stack: Stack) -> None:
    stack.start_worker(comfyui_url="http://127.0.0.1:9", env={"COMFYUI_NAME": "left"})
    with Celery(broker=stack.env["REDIS_URL"]) as app:
        answers = app.control.inspect(timeout=10).active_queues()
    assert answers is not None
    [queues] = [queues for worker, queues in answers.items() if worker.startswith("gpu-left@")]
    assert {queue["name"] for queue in queues} == {"gpu", "gpu.left"}


@pytest.mark.parametrize("queues", ["default,models,webhooks"])
def test_a_worker_ends_on_sigterm(stack: Stack, queues: str) -> None:
    worker = stack.start_worker("rest", queues=queues)
    worker.signal(signal.SIGTERM)
    wait_for(lambda: not worker.alive, seconds=40, what="the worker's end")
    assert worker.code == 0


def test_the_web_process_answers_on_the_stacks_own_database(stack: Stack) -> None:
    answer = requests.get(f"{stack.url}/nowhere", timeout=30)
    assert answer.status_code == 404
    assert answer.json()["error"] == "not_found"
    assert stack.sql("SELECT current_database()") == [("comfyserve_stack",)]
