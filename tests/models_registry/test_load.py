"""POST /models/{name}/load and unload, on a real ComfyUI, checked by its own memory figures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from script.harness import graphs
from script.harness.waiting import wait_for
from tests.models_registry.conftest import CHECKPOINT, sleeping


@pytest.fixture
def unloaded(person):
    answer = person.post(f"/models/{CHECKPOINT}/unload")
    assert answer.status_code == 200, answer.text
    return CHECKPOINT


def load(person, name=CHECKPOINT, model_type="checkpoint", **more):
    query = "&".join(f"{key}={value}" for key, value in {"model_type": model_type, **more}.items())
    return person.post(f"/models/{name}/load?{query}")


def test_it_loads_without_a_picture(person, model, unloaded, bridge):
    answer = load(person)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["message"] == "Model loaded successfully"
    assert (told["model_name"], told["model_type"]) == (CHECKPOINT, "checkpoint")
    held = [each for each in bridge.memory().models if ("checkpoints", CHECKPOINT) in each.files]
    assert {each.class_name for each in held} == {"BaseModel", "SD1ClipModel", "TAESD"}
    status = model(CHECKPOINT)
    assert status["is_loaded"] is True
    assert status["memory_usage_mb"] == pytest.approx(sum(each.loaded_bytes for each in held) / 1e6, abs=0.01)
    assert status["memory_usage_mb"] > 200


def test_unload_frees_its_memory(person, model, unloaded, bridge):
    assert load(person).status_code == 200
    before = bridge.memory().process_bytes
    answer = person.post(f"/models/{CHECKPOINT}/unload")
    assert answer.status_code == 200, answer.text
    assert answer.json()["message"] == "Model unloaded successfully"
    assert model(CHECKPOINT)["is_loaded"] is False
    assert model(CHECKPOINT)["memory_usage_mb"] is None
    after = bridge.memory()
    assert not [each for each in after.models if ("checkpoints", CHECKPOINT) in each.files]
    assert before - after.process_bytes > 50e6


def test_a_loaded_model_is_used_by_the_next_workflow_without_reading_it(person, unloaded, bridge):
    assert load(person).status_code == 200
    held = bridge.memory().process_bytes
    result = person.result(person.execute(graphs.txt2img(steps=1)))
    assert result["status"] == "completed", result
    assert bridge.memory().process_bytes - held < 150e6  # a second copy would be 250 MB


def test_unload_of_one_model_leaves_the_others(person, unloaded, bridge):
    assert load(person).status_code == 200
    assert load(person, "tiny-taesd.safetensors", "vae").status_code == 200
    assert person.post("/models/tiny-taesd.safetensors/unload").status_code == 200
    files = {file for each in bridge.memory().models for file in each.files}
    assert ("vae", "tiny-taesd.safetensors") not in files
    assert ("checkpoints", CHECKPOINT) in files


def test_a_model_of_a_type_that_cannot_be_loaded_alone_is_rejected(person):
    answer = load(person, "tiny-lora.safetensors", "lora")
    assert answer.status_code == 400
    assert answer.json()["details"][0]["field"] == "model_type"


def test_an_unknown_model_is_not_found(person):
    answer = load(person, "no-such.safetensors")
    assert answer.status_code == 404


def test_the_type_is_required(person):
    answer = person.post(f"/models/{CHECKPOINT}/load")
    assert answer.status_code == 400
    assert answer.json()["details"][0] == {
        "code": "REQUIRED_FIELD",
        "field": "model_type",
        "message": "Field 'model_type' is required",
    }


def test_an_unknown_worker_is_a_mistake(person):
    answer = load(person, worker="nobody")
    assert answer.status_code == 400
    (detail,) = answer.json()["details"]
    assert detail["field"] == "worker"
    assert "nobody" in detail["message"]


def test_a_worker_that_is_silent_is_unavailable(person, gpu_worker):
    gpu_worker.sql(
        "INSERT INTO models_registry_host (name, boot, bridge, places, total_bytes, free_bytes, used_bytes,"
        " reported_at) VALUES ('silent', '', true, '{}', 0, 0, 0, now() - interval '1 hour')"
    )
    answer = load(person, worker="silent")
    gpu_worker.sql("DELETE FROM models_registry_host WHERE name = 'silent'")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0


def test_behind_a_running_execution_it_waits_its_turn(person, model, unloaded):
    execution = person.execute(sleeping(6))
    wait_for(lambda: person.get(f"/workflows/{execution}").json()["status"] == "running", what="running")
    answer = load(person)
    assert answer.status_code == 200, answer.text
    assert person.result(execution)["status"] == "completed"
    assert model(CHECKPOINT)["is_loaded"] is True


def test_unload_does_not_disturb_what_runs(person, bridge):
    assert load(person).status_code == 200
    graph = {**graphs.txt2img(steps=1), "8": sleeping(6)["1"]}
    execution = person.execute(graph | {"9": {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}})
    wait_for(lambda: person.get(f"/workflows/{execution}").json()["status"] == "running", what="running")
    answer = person.post(f"/models/{CHECKPOINT}/unload")
    assert answer.status_code == 200, answer.text
    assert person.result(execution)["status"] == "completed"
    assert not [each for each in bridge.memory().models if ("checkpoints", CHECKPOINT) in each.files]


def test_two_requests_at_once_load_once(person, unloaded, gpu_worker):
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: load(person), range(2)))
    assert [answer.status_code for answer in answers] == [200, 200]
