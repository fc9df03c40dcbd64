"""POST /workflows/execute: from a workflow to its picture, on a real ComfyUI."""

from __future__ import annotations

from io import BytesIO

import requests
from PIL import Image

from tests.workflows import graphs


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
