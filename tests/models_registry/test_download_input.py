"""POST /models/{name}/download: what is rejected before any worker is involved."""

from __future__ import annotations

import pytest

from tests.models_registry.conftest import CHECKPOINT


@pytest.fixture
def person(stack):
    return stack.person()


def download(person, name, **more):
    query = {"model_type": "checkpoint", "download_url": "http://1.1.1.1/x", **more}
    return person.post(f"/models/{name}/download", params=query)


@pytest.mark.parametrize(
    ("name", "more", "field"),
    [
        ("..%2F..%2Fx.safetensors", {}, "model_name"),
        ("a/../../x.safetensors", {}, None),
        ("%2Fetc%2Fx.safetensors", {}, None),
        (".hidden.safetensors", {}, "model_name"),
        ("x.exe", {}, "model_name"),
        ("x.ckpt", {}, "model_name"),
        ("x" * 300 + ".safetensors", {}, "model_name"),
        ("x.safetensors", {"model_type": "nonsense"}, "model_type"),
        ("x.safetensors", {"download_url": "file:///etc/passwd"}, "download_url"),
        ("x.safetensors", {"download_url": "http://10.1.2.3/x"}, "download_url"),
        ("x.safetensors", {"download_url": "http://169.254.169.254/latest"}, "download_url"),
        ("x.safetensors", {"download_url": ""}, "download_url"),
        ("x.safetensors", {"sha256": "abc"}, "sha256"),
    ],
)
def test_bad_input_is_refused(person, name, more, field):
    answer = download(person, name, **more)
    if field is None:  # such a path leads nowhere
        assert answer.status_code in (400, 404, 405)
        return
    assert answer.status_code == 400, answer.text
    assert [detail["field"] for detail in answer.json()["details"]] == [field]


def test_the_type_and_the_address_are_required(person):
    answer = person.post("/models/x.safetensors/download")
    assert answer.status_code == 400
    assert {detail["field"] for detail in answer.json()["details"]} == {"model_type", "download_url"}


def test_only_staff_may_where_the_operator_says_so(stack):
    stack.start_web(env={"MODEL_MANAGEMENT": "staff"})
    person = stack.person()
    assert download(person, "x.safetensors").status_code == 403
    assert person.post(f"/models/{CHECKPOINT}/unload").status_code == 403
    assert person.get("/models/").status_code == 200
    stack.stop_web()
