"""Several users on several GPUs: real workers on real ComfyUIs."""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from uuid import uuid4

import pytest
import requests
from PIL import Image

from script.harness import graphs
from script.harness.graphs import sleep
from script.harness.waiting import wait_for
from script.local import comfyui as local_comfyui
from tests.pictures import pixel

USERS, EACH = 10, 20
pytestmark = pytest.mark.timeout(300)  # a busy machine takes its time for so many


def start_pair(stack, comfyui_pair, **env: str) -> None:
    for i, comfyui in enumerate(comfyui_pair):
        named = {"COMFYUI_NAME": f"gpu-{i}", **env}
        stack.start_worker(f"gpu-{i}", comfyui_url=comfyui.url, env=named, wait=False)
    wait_for(
        lambda: stack.sql("SELECT count(*) FROM workflows_worker WHERE idle") == [(2,)],
        seconds=60,
        what="both workers to be idle",
    )


def queue_of(comfyui) -> list[str]:
    state = requests.get(f"{comfyui.url}/queue", timeout=30).json()
    return [item[1] for item in state["queue_running"] + state["queue_pending"]]


def colour_of(url: str) -> int:
    answer = requests.get(url, timeout=30)
    red, green, blue = pixel(Image.open(BytesIO(answer.content)).convert("RGB"), (0, 0))
    return red << 16 | green << 8 | blue


def test_two_hundred_workflows_of_ten_users_each_end_once_with_the_right_picture(bare_stack, comfyui_pair):
    stack = bare_stack
    people = [stack.person("many") for _ in range(USERS)]
    start_pair(stack, comfyui_pair)

    def submit(i: int) -> list[str]:
        return [people[i].execute(graphs.colour(i * EACH + k + 1)) for k in range(EACH)]

    with ThreadPoolExecutor(USERS) as pool:
        submitted = list(pool.map(submit, range(USERS)))
    for i, ids in enumerate(submitted):
        for k, execution_id in enumerate(ids):
            result = people[i].result(execution_id, seconds=90)
            assert result["status"] == "completed", result
            [image] = result["outputs"]["images"]
            assert colour_of(image["url"]) == i * EACH + k + 1
    ids = [execution_id for each in submitted for execution_id in each]
    rows = stack.sql("SELECT worker, attempt FROM workflows_execution WHERE id = ANY(%s::uuid[])", ids)
    assert len(rows) == USERS * EACH
    shares = Counter(worker for worker, _ in rows)
    assert min(shares["gpu-0"], shares["gpu-1"]) > USERS * EACH / 4, shares
    ends = stack.sql(
        "SELECT count(*) FROM workflows_logline WHERE message = 'Workflow completed successfully' "
        "AND execution_id = ANY(%s::uuid[])",
        ids,
    )
    assert ends == [(USERS * EACH,)]


def test_cancelling_every_third_at_random_affects_no_other(bare_stack, comfyui_pair):
    stack = bare_stack
    random.seed(20)
    person = stack.person("cancels")
    start_pair(stack, comfyui_pair)
    ids = [person.execute(sleep(0.4, seed=1000 + i)) for i in range(36)]
    doomed = ids[::3]

    def cancel(execution_id: str) -> int:
        time.sleep(random.uniform(0, 6))  # the moment is the point of the test
        return person.session.post(f"{person.url}/workflows/{execution_id}/cancel", timeout=30).status_code

    with ThreadPoolExecutor(len(doomed)) as pool:
        answers = dict(zip(doomed, pool.map(cancel, doomed), strict=True))
    for execution_id in ids:
        status = person.result(execution_id, seconds=90)["status"]
        assert status == ("cancelled" if answers.get(execution_id) == 200 else "completed")
    assert set(answers.values()) <= {200, 409}
    wait_for(lambda: not any(map(queue_of, comfyui_pair)), what="the queues of both ComfyUIs to be empty")


def test_a_staged_execution_moves_to_a_gpu_that_becomes_idle(bare_stack, comfyui_pair):
    stack = bare_stack
    person = stack.person("staged")
    start_pair(stack, comfyui_pair)
    gate_name = uuid4().hex
    slow = person.execute(graphs.gate(gate_name))
    quick = person.execute(sleep(1.0, seed=2))
    behind = [person.execute(sleep(1.0, seed=3 + i)) for i in range(3)]
    for execution_id in [quick, *behind]:
        assert person.result(execution_id, seconds=60)["status"] == "completed"
    assert person.get(f"/workflows/{slow}/status").json()["status"] == "running"
    for comfyui in comfyui_pair:
        comfyui.open_gate(gate_name)
    assert person.result(slow)["status"] == "completed"


def test_a_model_that_one_worker_has_sends_all_that_need_it_there(bare_stack, comfyui_pair):
    stack = bare_stack
    person = stack.person("having")
    only = comfyui_pair[1].folder / "models" / "vae" / "only-here.safetensors"
    only.parent.mkdir(parents=True, exist_ok=True)
    only.symlink_to(local_comfyui.tiny_models(comfyui_pair[1].install) / "vae" / "tiny-taesd.safetensors")
    try:
        start_pair(stack, comfyui_pair)
        told = "SELECT count(*) FROM models_registry_modelfile WHERE path LIKE '%only-here%'"
        wait_for(lambda: stack.sql(told) == [(1,)], seconds=30, what="the report of the model")
        workflow = graphs.colour(5) | {
            "3": {"class_type": "VAELoader", "inputs": {"vae_name": only.name}},
            "4": {"class_type": "VAEEncode", "inputs": {"pixels": ["1", 0], "vae": ["3", 0]}},
            "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["3", 0]}},
            "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
        }
        ids = [person.execute(workflow) for _ in range(6)]
        assert {person.result(id_, seconds=60)["status"] for id_ in ids} == {"completed"}
    finally:
        only.unlink()
    query = "SELECT DISTINCT worker, attempt FROM workflows_execution WHERE id = ANY(%s::uuid[])"
    assert stack.sql(query, ids) == [("gpu-1", 1)]


def test_a_missing_node_on_one_worker_sends_it_to_the_other(bare_stack, comfyui_pair):
    """Both have the same nodes here, so one of them is told that it lacks the model."""
    stack = bare_stack
    person = stack.person("lacking")
    start_pair(stack, comfyui_pair)
    workflow = graphs.txt2img()
    workflow["1"]["inputs"]["ckpt_name"] = "nowhere.safetensors"
    result = person.result(person.execute(workflow), seconds=60)
    assert result["status"] == "failed"
    query = "SELECT excluded FROM workflows_execution WHERE id = %s"
    [(excluded,)] = stack.sql(query, result["execution_id"])
    assert len(excluded) == 1, "the second worker was asked before it failed"
