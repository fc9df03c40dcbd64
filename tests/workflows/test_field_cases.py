"""Inputs seen in the field: see docs/field-cases.md, where each has its source."""

from __future__ import annotations

import json
from typing import Any

import pytest

from script.harness import graphs
from script.harness.waiting import wait_for
from tests.factories import assert_error
from tests.scripted_comfyui.nodes import PNG, NodeClass
from workflows.graph import advice
from workflows.graph.node_info import Input, NodeInfo

CLASSES = {
    "LoraLoader": NodeInfo(
        {
            "lora_name": Input("COMBO", True, ("styles/ink.safetensors",)),
            "strength_model": Input("FLOAT", True),
            "strength_clip": Input("FLOAT", False),
        },
        ("MODEL", "CLIP"),
    )
}


@pytest.fixture
def person(gpu_worker):
    return gpu_worker.person()


def test_a_model_saved_with_backslashes_is_found():
    graph: dict[str, Any] = {
        "1": {"class_type": "LoraLoader", "inputs": {"lora_name": "styles\\ink.safetensors"}}
    }
    fitted = advice.with_separators(graph, CLASSES)
    assert fitted["1"]["inputs"]["lora_name"] == "styles/ink.safetensors"
    assert graph["1"]["inputs"]["lora_name"] == "styles\\ink.safetensors", "what was sent is kept"


def test_a_misspelt_optional_input_is_a_warning():
    inputs = {"lora_name": "styles/ink.safetensors", "strength_model": 1.0, "strenght_clip": 0.5}
    [warning] = advice.warnings({"1": {"class_type": "LoraLoader", "inputs": inputs}}, CLASSES, None)
    assert warning == (
        "Node 1 (LoraLoader): it has no input 'strenght_clip', which is ignored; "
        "did you mean 'strength_clip'?"
    )


def test_a_missing_embedding_is_a_warning_with_similar_names():
    inputs = {"text": "a cat, (embedding:easynegativ:1.2), embedding:There.pt"}
    graph = {"1": {"class_type": "CLIPTextEncode", "inputs": inputs}}
    [warning] = advice.warnings(graph, {}, ["EasyNegative.safetensors", "there.pt"])
    assert warning.startswith("Node 1 (CLIPTextEncode): the embedding 'easynegativ' is not installed and has")
    assert "did you mean 'EasyNegative.safetensors'" in warning


def test_a_missing_embedding_is_a_warning_of_the_result(person):
    wait_for(lambda: person.get("/models/?available_only=true").json()["models"], what="the models")
    result = person.result(person.execute(graphs.txt2img(text="clouds, embedding:nowhere")))
    assert result["status"] == "completed"
    assert any("the embedding 'nowhere' is not installed" in warning for warning in result["warnings"])


def test_seed_minus_one_is_rejected_with_an_explanation(person):
    result = person.result(person.execute(graphs.txt2img(seed=-1)))
    assert (
        "input 'seed' is -1; 0 to 18446744073709551615 is allowed; no seed is drawn here" in result["error"]
    )


def test_the_string_false_for_a_boolean_is_a_warning(person):
    graph = graphs.colour(5)
    graph["2"] = {
        "class_type": "SaveAnimatedWEBP",
        "inputs": {
            "images": ["1", 0], "filename_prefix": "x", "fps": 6.0, "lossless": "false", "quality": 80,
            "method": "default",
        },
    }  # fmt: skip
    [warning] = person.result(person.execute(graph))["warnings"]
    assert "input 'lossless' is the text 'false', which ComfyUI takes for true" in warning


def test_a_truncated_fraction_is_a_warning(person):
    graph = graphs.colour(5)
    graph["1"]["inputs"]["width"] = 16.7
    result = person.result(person.execute(graph))
    assert result["warnings"] == ["Node 1 (EmptyImage): input 'width' is 16.7, of which ComfyUI takes 16"]
    assert result["outputs"]["images"][0]["width"] == 16


def test_an_editor_only_node_is_rejected_with_an_explanation(person):
    graph = graphs.colour(5)
    graph["3"] = {"class_type": "PrimitiveNode", "inputs": {}}
    error = person.result(person.execute(graph))["error"]
    assert "no node of the class 'PrimitiveNode' is installed; it exists in ComfyUI's editor only" in error


def test_a_node_that_saves_without_reporting_leaves_a_warning(rig):
    async def quiet(run, inputs):
        run.save(PNG, prefix="quiet", extension="png")

    rig.comfyui.classes["PreviewImage"] = NodeClass(run=quiet, is_output=True)
    rig.backend.forget_capabilities()
    rig.backend.refresh()
    body = rig.ends(rig.run({"1": {"class_type": "PreviewImage", "inputs": {}}}), "completed")
    assert body["outputs"] == {}
    [warning] = body["warnings"]
    assert warning.startswith("It ended without any output")


def test_an_output_that_comfyui_does_not_give_is_a_warning(rig):
    async def lost(run, inputs):
        return {"images": [{"filename": "v1..final_00001_.png", "subfolder": "", "type": "output"}]}

    rig.comfyui.classes["PreviewImage"] = NodeClass(run=lost, is_output=True)
    rig.backend.forget_capabilities()
    rig.backend.refresh()
    body = rig.ends(rig.run({"1": {"class_type": "PreviewImage", "inputs": {}}}), "completed")
    assert body["warnings"] == [
        "Node 1 (PreviewImage): its file 'v1..final_00001_.png' is missing from the outputs, "
        "since ComfyUI does not give it"
    ]


def test_a_byte_order_mark_is_ignored(alice):
    body = b"\xef\xbb\xbf" + json.dumps({"workflow": graphs.colour(1), "metadata": {"a": 1.0}}).encode()
    response = alice.post("/workflows/execute", data=body, content_type="application/json")
    assert response.status_code == 200, response.content
    shown = alice.get(f"/workflows/{response.json()['execution_id']}")
    assert '"metadata":{"a": 1.0}' in shown.content.decode()


def test_a_form_body_is_rejected_with_the_header_to_send(alice):
    response = alice.post(
        "/workflows/execute", data="workflow={}", content_type="application/x-www-form-urlencoded"
    )
    body = assert_error(response, 415, "unsupported_media_type")
    assert "Send JSON, with the header Content-Type: application/json" in body["message"]


def test_a_workflow_inside_a_string_is_rejected_with_an_explanation(alice):
    response = alice.post("/workflows/execute", {"workflow": json.dumps(graphs.colour(1))})
    body = assert_error(response, 400, "validation_error")
    [detail] = body["details"]
    assert (detail["code"], detail["field"]) == ("INVALID_TYPE", "workflow")
    assert "send the object itself, not a string" in detail["message"]


@pytest.mark.parametrize("path", ["/workflows/execute", "/workflows/validate", "/workflows/batch"])
@pytest.mark.parametrize(
    "body, told",
    [
        (graphs.colour(1), "The body is the workflow itself"),
        ({"nodes": [], "links": []}, "The body is the workflow itself"),
        ({"input": {"workflow": graphs.colour(1)}}, "'workflow' is inside 'input'"),
        ({"data": {"workflow": {}}, "priority": "high"}, "'workflow' is inside 'data'"),
    ],
)
def test_a_misplaced_workflow_is_rejected_with_an_explanation(alice, path, body, told):
    [detail] = assert_error(alice.post(path, body), 400, "validation_error")["details"]
    assert detail["field"] == "workflow"
    assert told in detail["message"]


@pytest.mark.parametrize("key", ["workflow", "output", "api"])
def test_a_doubly_wrapped_workflow_is_rejected_with_an_explanation(alice, key):
    response = alice.post("/workflows/execute", {"workflow": {key: graphs.colour(1), "x": 1}})
    [detail] = assert_error(response, 400, "validation_error")["details"]
    assert f"a workflow stands under '{key}': send that one" in detail["message"]


@pytest.mark.parametrize("value", ["1", 0, True, None, {"a": 1}])
def test_a_value_instead_of_a_link_is_a_warning(value):
    graph = {"2": {"class_type": "SaveImage", "inputs": {"images": value}}}
    [warning] = advice.warnings(graph, {"SaveImage": NodeInfo({"images": Input("IMAGE", True)}, ())}, None)
    assert warning.startswith("Node 2 (SaveImage): input 'images' is ")
    assert "but takes IMAGE by a link [node id, output]" in warning


ID = "file_" + "0a" * 16


@pytest.mark.parametrize(
    "value",
    [
        f"{ID} [input]",
        f"{ID}.png",
        ID.upper(),
        f"/files/{ID}",
        f'"{ID}"',
        f"input/{ID}",
        f"{ID},{ID}",
        {"file_id": ID},
    ],
)
@pytest.mark.parametrize("class_type, name", [("LoadImage", "image"), ("LoadImageMask", "image")])
def test_a_decorated_file_id_is_rejected_with_an_explanation(alice, class_type, name, value):
    graph = graphs.colour(1) | {"7": {"class_type": class_type, "inputs": {name: value}}}
    response = alice.post("/workflows/execute", {"workflow": graph})
    [detail] = assert_error(response, 400, "validation_error")["details"]
    assert detail["field"] == f"workflow.7.inputs.{name}"
    assert detail["message"].endswith(f"send '{ID}' alone")


@pytest.mark.parametrize("beginning", ["iVBORw0KGgo", "/9j/4AAQ", "UklGRg", "R0lGODlh"])
@pytest.mark.parametrize("class_type", ["LoadImage", "LoadImageMask"])
def test_bare_base64_is_rejected_with_an_explanation(alice, class_type, beginning):
    text = beginning + "AAAA+/bc" * 20 + "=="
    graph = graphs.colour(1) | {"7": {"class_type": class_type, "inputs": {"image": text}}}
    [detail] = assert_error(alice.post("/workflows/execute", {"workflow": graph}), 400, "validation_error")[
        "details"
    ]
    assert detail["field"] == "workflow.7.inputs.image"
    assert "not bare base64; 'data:image/png;base64,' before it" in detail["message"]


def test_spaces_around_a_file_id_are_ignored(alice):
    graph = graphs.colour(1) | {"7": {"class_type": "LoadImage", "inputs": {"image": f" {ID}\n"}}}
    response = alice.post("/workflows/execute", {"workflow": graph})
    [detail] = assert_error(response, 400, "validation_error")["details"]
    assert detail["code"] == "FILE_NOT_FOUND"


def test_an_unknown_filename_is_rejected_with_what_to_send(person):
    result = person.result(person.execute(graphs.colour(1) | {
        "7": {"class_type": "LoadImage", "inputs": {"image": "nope.png"}},
        "8": {"class_type": "PreviewImage", "inputs": {"images": ["7", 0]}},
    }))  # fmt: skip
    told = " ".join([result["error"] or "", *result["warnings"]])
    assert "Invalid image file: nope.png; upload it to /files/upload and send its file_id" in told


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400"])
@pytest.mark.parametrize(
    "path, body, place",
    [
        ("/workflows/execute", '{"workflow": {}, "metadata": {"a": [1, %s]}}', "metadata.a.1"),
        ("/workflows/batch", '{"workflow": {}, "metadata": {"a": %s}}', "metadata.a"),
        ("/workflows/batch", '{"workflow": {}, "inputs": [{"1.color": %s}]}', "inputs.0.1.color"),
        ("/apps/", '{"name": "x", "inputs": [{"default": %s}]}', "inputs.0.default"),
        ("/comfyui/prompt", '{"prompt": {}, "extra_data": {"a": %s}}', "extra_data.a"),
        ("/api/v2/jobs", '{"workflow": {}, "metadata": {"a": %s}}', "metadata.a"),
        ("/v1/images/generations", '{"prompt": "a", "n": %s}', "n"),
    ],
)  # fmt: skip
def test_nan_and_infinity_are_rejected_by_every_api(alice, path, body, place, number):
    response = alice.post(path, data=body % number, content_type="application/json")
    assert response.status_code in (400, 422), response.content
    assert place in response.content.decode()
    assert number in response.content.decode()
