"""`extra_data.extra_pnginfo` and `partial_execution_targets`, as in ComfyUI."""

from __future__ import annotations

import json
from io import BytesIO

import pytest
import requests
from PIL import Image

from script.harness import graphs
from tests.factories import assert_error, mistakes
from workflows.models import Graph


def two_outputs() -> graphs.Graph:
    graph = graphs.colour(9)
    graph["3"] = graphs.colour(9, prefix="other")["2"]
    return graph


def test_only_the_targets_are_run(gpu_worker):
    person = gpu_worker.person()
    result = person.result(person.execute(two_outputs(), partial_execution_targets=["3"]))
    assert result["status"] == "completed", result
    assert [image["node_id"] for image in result["outputs"]["images"]] == ["3"]


def test_the_info_is_written_into_the_picture(gpu_worker):
    person = gpu_worker.person()
    workflow = {"nodes": [], "version": 0.4}
    extra_data = {"extra_pnginfo": {"workflow": workflow}}
    result = person.result(person.execute(graphs.colour(10), extra_data=extra_data))
    [image] = result["outputs"]["images"]
    saved = Image.open(BytesIO(requests.get(image["url"], timeout=10).content))
    assert json.loads(saved.info["workflow"]) == workflow


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"partial_execution_targets": ["2", "nine"]}, {"partial_execution_targets.1": "INVALID_VALUE"}),
        ({"partial_execution_targets": []}, {"partial_execution_targets": "REQUIRED_FIELD"}),
        ({"extra_data": {"api_key": "x"}}, {"extra_data.api_key": "UNKNOWN_FIELD"}),
        ({"extra_data": {"api_key_comfy_org": 3}}, {"extra_data.api_key_comfy_org": "INVALID_VALUE"}),
        ({"extra_data": {"extra_pnginfo": 3}}, {"extra_data.extra_pnginfo": "INVALID_VALUE"}),
    ],
)
def test_invalid_values_are_named(alice, given, expected):
    response = alice.post("/workflows/execute", {"workflow": graphs.colour(1), **given})
    assert mistakes(assert_error(response, 400, "validation_error")) == expected


def test_a_retry_inherits_them(alice):
    given = {"partial_execution_targets": ["2"], "extra_data": {"extra_pnginfo": {"a": 1}}}
    first = alice.post("/workflows/execute", {"workflow": graphs.colour(1), **given}).json()["execution_id"]
    alice.post(f"/workflows/{first}/cancel")
    again = alice.post(f"/workflows/{first}/retry").json()["execution_id"]
    assert Graph.objects.get(execution_id=again).extras == given
