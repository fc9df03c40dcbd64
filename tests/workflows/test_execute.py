"""POST /workflows/execute: from a workflow to its picture, on a real ComfyUI."""

from __future__ import annotations

from io import BytesIO

import requests
from PIL import Image

from script.harness import graphs


def test_a_workflow_becomes_a_picture(stack, comfyui):
    stack.start_worker(comfyui_url=comfyui.url, keep=True)
    person = stack.person()
    answer = person.post("/workflows/execute", {"workflow": graphs.txt2img()})
    assert answer.status_code == 200, answer.text
    accepted = answer.json()
    assert accepted["status"] == "pending"
    result = person.result(accepted["execution_id"])
    assert result["status"] == "completed", result
    [picture] = result["outputs"]["images"]
    assert (picture["width"], picture["height"]) == (64, 64)
    served = requests.get(picture["url"], timeout=10)
    assert served.status_code == 200
    assert served.headers["Content-Type"] == "image/png"
    assert Image.open(BytesIO(served.content)).size == (64, 64)


def test_a_text_that_is_long_becomes_a_file(stack, comfyui):
    stack.start_worker(comfyui_url=comfyui.url, keep=True)
    person = stack.person()
    text = "word " * 20_000
    graph = {"1": {"class_type": "PreviewAny", "inputs": {"source": text}}}
    result = person.result(person.execute(graph))
    assert result["status"] == "completed", result
    [made] = result["outputs"]["texts"]
    assert made["size"] == len(text)
    assert requests.get(made["url"], timeout=10).text == text


def test_metadata_may_have_64_kib(bare_stack):
    person = bare_stack.person()
    for metadata, status in (({"a": "x" * 60_000}, 200), ({"a": "x" * 70_000}, 400)):
        answer = person.post("/workflows/execute", {"workflow": graphs.colour(1), "metadata": metadata})
        assert answer.status_code == status, answer.text
    assert answer.json()["details"][0]["field"] == "metadata"
