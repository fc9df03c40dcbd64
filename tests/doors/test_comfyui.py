"""ComfyUI's own routes, called as clients of a ComfyUI call them, on a real stack and ComfyUI."""

from __future__ import annotations

import io
import uuid
from typing import Any

import pytest
from PIL import Image

from script.harness import graphs
from script.harness.stack import Person
from script.harness.waiting import wait_for


@pytest.fixture
def person(gpu_worker: Any) -> Person:
    return gpu_worker.person()


def finished(person: Person, prompt_id: str) -> dict[str, Any]:
    """Its entry of the history, polled as n8n does: a prompt in neither queue nor history is fatal there."""

    def entry() -> Any:
        queue = person.get("/comfyui/queue").json()
        queued = [item[1] for part in queue.values() for item in part]
        found = person.get(f"/comfyui/history/{prompt_id}").json().get(prompt_id)
        assert found or prompt_id in queued or person.get(f"/comfyui/history/{prompt_id}").json()
        return found

    return wait_for(entry, seconds=60, what="the history of the prompt")


def test_a_prompt_runs_and_only_its_user_sees_it(gpu_worker, person):
    prompt_id, body = str(uuid.uuid4()), {"prompt": graphs.colour(0x00FF00), "client_id": "x"}
    answer = person.post("/comfyui/prompt", {**body, "prompt_id": prompt_id})
    assert answer.json() == {"prompt_id": prompt_id, "number": 0, "node_errors": {}}
    entry = finished(person, prompt_id)
    assert entry["status"]["status_str"] == "success"
    assert [name for name, _ in entry["status"]["messages"]] == ["execution_start", "execution_success"]
    assert entry["prompt"][2] == graphs.colour(0x00FF00)
    [image] = entry["outputs"]["2"]["images"]
    for path in ("/comfyui/view", "/comfyui/api/view"):
        picture = person.get(path, params=image)
        assert Image.open(io.BytesIO(picture.content)).getpixel((0, 0)) == (0, 255, 0)
    assert prompt_id in person.get("/comfyui/history", params={"prompt_id": prompt_id}).json()  # Dify
    assert prompt_id in person.get("/comfyui/history").json()  # SillyTavern
    other = gpu_worker.person()
    assert other.get("/comfyui/history").json() == other.get(f"/comfyui/history/{prompt_id}").json() == {}
    assert other.get("/comfyui/view", params=image).status_code == 404
    clash = other.post("/comfyui/prompt", {**body, "prompt_id": prompt_id})
    assert (clash.status_code, clash.json()["error"]["type"]) == (400, "invalid_prompt_id")
    other.post("/comfyui/history", {"delete": [prompt_id]})
    assert prompt_id in person.get("/comfyui/history").json()
    person.post("/comfyui/history", {"delete": [prompt_id]})
    assert person.get("/comfyui/history").json() == {}


def test_clearing_the_history_hides_it_and_deletes_nothing(bare_stack):
    person, other = bare_stack.person(), bare_stack.person()
    first, foreign = (
        who.post("/comfyui/prompt", {"prompt": graphs.colour(7)}).json()["prompt_id"]
        for who in (person, other)
    )
    for who in (person, other):
        who.post("/comfyui/queue", {"clear": True})
    assert list(person.get("/comfyui/history").json()) == [first]
    assert person.post("/comfyui/history", {"clear": True}).status_code == 200
    for path in ("/comfyui/history", f"/comfyui/history/{first}", f"/comfyui/history?prompt_id={first}"):
        assert person.get(path).json() == {}
    assert person.get(f"/workflows/{first}").json()["status"] == "cancelled"
    assert list(other.get("/comfyui/history").json()) == [foreign]
    second = person.post("/comfyui/prompt", {"prompt": graphs.colour(8)}).json()["prompt_id"]
    person.post("/comfyui/queue", {"clear": True})
    assert list(person.get("/comfyui/history").json()) == [second]


def test_an_upload_is_an_input_by_the_name_that_is_answered(person):
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(out, "PNG")
    files = {"image": ("a.png", out.getvalue(), "image/png")}
    answer = person.post("/comfyui/api/upload/image", files=files, data={"overwrite": "true"})
    assert answer.status_code == 200, answer.text
    name = answer.json()["name"]
    assert person.get("/comfyui/view", params={"filename": name, "type": "input"}).content == out.getvalue()
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "loaded"}},
    }
    prompt_id = person.post("/comfyui/prompt", {"prompt": prompt}).json()["prompt_id"]
    assert finished(person, prompt_id)["status"]["completed"]


def test_waiting_prompts_can_be_deleted_from_the_queue(bare_stack):
    person, other = bare_stack.person(), bare_stack.person()
    ids = [person.post("/comfyui/prompt", {"prompt": graphs.colour(n)}).json()["prompt_id"] for n in range(3)]
    assert [item[1] for item in person.get("/comfyui/queue").json()["queue_pending"]] == ids
    assert person.get("/comfyui/prompt").json() == {"exec_info": {"queue_remaining": 3}}
    other.post("/comfyui/queue", {"clear": True, "delete": ids})
    person.post("/comfyui/interrupt", {})  # what runs, and nothing does
    person.post("/comfyui/queue", {"delete": [ids[0]]})
    assert [item[1] for item in person.get("/comfyui/queue").json()["queue_pending"]] == ids[1:]
    person.post("/comfyui/queue", {"clear": True})
    assert person.get("/comfyui/queue").json() == {"queue_running": [], "queue_pending": []}
    status = person.get(f"/comfyui/history/{ids[0]}").json()[ids[0]]["status"]
    assert status["messages"][-1][0] == "execution_interrupted"


def test_it_shows_the_fleet(person):
    whole = person.get("/comfyui/object_info").json()
    assert person.get("/comfyui/api/object_info/KSampler").json() == {"KSampler": whole["KSampler"]}
    assert whole["LoadImage"]["input"]["required"]["image"][0] in ([], "COMBO")
    assert "tiny-sd15.safetensors" in person.get("/comfyui/models/checkpoints").json()
    assert isinstance(person.get("/comfyui/embeddings").json(), list)
    assert "embeddings" in person.get("/comfyui/models").json()
    assert person.get("/comfyui/models/nothing").status_code == 404
    folders = person.get("/comfyui/experiment/models").json()
    assert {"name": "checkpoints", "folders": []} in folders
    checkpoints = person.get("/comfyui/api/experiment/models/checkpoints").json()
    assert {"name": "tiny-sd15.safetensors", "pathIndex": 0} in checkpoints
    for path in ("system_stats", "features", "extensions", "workflow_templates", "global_subgraphs", "i18n"):
        assert person.get(f"/comfyui/{path}").status_code == 200
    assert person.post("/comfyui/free", {}).status_code == 200


def test_errors_are_in_comfyuis_format(bare_stack):
    person = bare_stack.person()
    nothing = person.post("/comfyui/prompt", {"prompt": {}})
    assert (nothing.status_code, nothing.json()["error"]["type"]) == (400, "no_prompt")
    named = person.post("/comfyui/prompt", {"prompt": graphs.colour(1), "prompt_id": "mine"})
    assert (named.status_code, named.json()["error"]["type"]) == (400, "invalid_prompt_id")
    broken = {"1": {"class_type": "SaveImage", "inputs": {"images": ["9", 0]}}}
    refused = person.post("/comfyui/prompt", {"prompt": broken})
    assert refused.status_code == 400
    assert list(refused.json()["node_errors"]) == ["1"]
    key = {"extra_data": {"another_key_comfy_org": "secret"}}
    refused = person.post("/comfyui/prompt", {"prompt": graphs.colour(1), **key})
    assert refused.status_code == 400
    person.session.headers.pop("Authorization")
    assert person.post("/comfyui/prompt", {"prompt": graphs.colour(1)}).status_code == 401
    assert person.get("/comfyui/view", params={"filename": "a.png"}).status_code == 401


def test_the_history_is_paged(bare_stack):
    person = bare_stack.person()
    ids = [person.post("/comfyui/prompt", {"prompt": graphs.colour(n)}).json()["prompt_id"] for n in range(3)]
    person.post("/comfyui/queue", {"clear": True})

    def history(**query: Any) -> list[str]:
        return list(person.get("/comfyui/history", params=query).json())

    assert history() == ids
    assert history(max_items=2) == ids[1:]
    assert history(max_items=1, offset=1) == [ids[1]]
    assert history(offset=2) == [ids[2]]
    assert history(max_items="many") == ids


def test_lists_have_the_prompts_of_one_request_at_most(bare_stack):
    """Otherwise a list of 200 would take gigabytes, with one prompt of 10 MiB each."""
    person = bare_stack.person()
    large = "x" * 4_000_000
    ids = []
    for number in range(4):
        prompt = {**graphs.colour(number), "9": {"class_type": "PreviewAny", "inputs": {"source": large}}}
        ids.append(person.post("/comfyui/prompt", {"prompt": prompt}).json()["prompt_id"])
    queue = person.get("/comfyui/queue").json()["queue_pending"]
    assert [item[1] for item in queue] == ids
    assert [bool(item[2]) for item in queue] == [True, True, False, False]
    person.post("/comfyui/queue", {"clear": True})
    history = person.get("/comfyui/history").json()
    assert [bool(history[id_]["prompt"][2]) for id_ in ids] == [False, False, True, True]  # the newest
    alone = person.get(f"/comfyui/history/{ids[0]}").json()[ids[0]]
    assert alone["prompt"][2]["9"]["inputs"]["source"] == large
