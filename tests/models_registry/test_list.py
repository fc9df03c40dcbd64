"""GET /models/ and /models/{name}: what the workers reported."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from script.harness.waiting import wait_for
from tests.models_registry.conftest import CHECKPOINT


def listed(person, query=""):
    answer = person.get(f"/models/{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_it_lists_what_the_comfyui_has(person):
    told = listed(person)
    by_name = {each["name"]: each for each in told["models"]}
    assert by_name[CHECKPOINT]["type"] == "checkpoint"
    assert by_name["tiny-lora.safetensors"]["type"] == "lora"
    assert by_name["tiny-compact-x2.safetensors"]["type"] == "upscaler"
    assert set(by_name[CHECKPOINT]) == {
        "name", "type", "is_loaded", "is_downloading", "download_progress", "last_used", "memory_usage_mb",
    }  # fmt: skip
    assert told["available_memory_mb"] > 0
    assert "note" not in told  # the bridge is there


def test_it_filters_by_type(person):
    assert {each["type"] for each in listed(person, "?model_type=vae")["models"]} == {"vae"}


def test_an_unknown_type_is_refused(person):
    answer = person.get("/models/?model_type=nonsense")
    assert answer.status_code == 400
    assert answer.json()["details"][0]["field"] == "model_type"


def test_it_needs_a_login(person):
    import requests

    assert requests.get(f"{person.url}/models/", timeout=10).status_code == 401


def test_status_reports_file_and_header(person, model):
    status = model(CHECKPOINT)
    path = Path(status["file_path"])
    assert path.name == CHECKPOINT
    assert status["file_size_mb"] == pytest.approx(path.stat().st_size / 1e6, abs=0.01)
    read = wait_for(lambda: model(CHECKPOINT)["metadata"], seconds=60, what="the header")
    assert read["architecture"] == "stable-diffusion-v1"
    assert read["base_model"] == "sd-1.5"
    assert read["resolution"] == "128x128"  # as the file says of itself


def test_the_hash_is_computed_in_the_background(person, model):
    name = "tiny-lora.safetensors"
    known = wait_for(lambda: model(name)["hash"], seconds=60, what="the hash")
    assert known == hashlib.sha256(Path(model(name)["file_path"]).read_bytes()).hexdigest()


def test_an_unknown_model_is_not_found(person):
    assert person.get("/models/no-such.safetensors").status_code == 404


@pytest.mark.parametrize("name", ["../../etc/passwd", "%2e%2e/x", "/etc/passwd", "x%00y"])
def test_a_hostile_name_is_not_found(person, name):
    assert person.get(f"/models/{name}").status_code == 404
