"""ComfyUI's validation errors, explained by node, input, value and what is allowed."""

# ruff: noqa: E501  (a table of sentences)

from __future__ import annotations

from typing import Any

import pytest

from comfyui.errors import Refused
from comfyui.types import ExecutionError, InputError, NodeErrors
from script.harness import graphs
from workflows.graph import comfyui_errors, refusals
from workflows.graph.links import MAX_DEPTH
from workflows.graph.node_info import Input, NodeInfo

CLASSES = {
    "CheckpointLoaderSimple": NodeInfo({"ckpt_name": Input("COMBO", True, ("a.safetensors",))}, ("MODEL", "CLIP", "VAE")),
    "CLIPTextEncode": NodeInfo({"text": Input("STRING", True), "clip": Input("CLIP", True)}, ("CONDITIONING",)),
    "EmptyLatentImage": NodeInfo({}, ("LATENT",)),
    "KSampler": NodeInfo(
        {
            "steps": Input("INT", True, limits={"min": 1, "max": 10000}),
            "sampler_name": Input("COMBO", True, ("euler", "euler_ancestral", "dpmpp_2m")),
            "model": Input("MODEL", True),
            "positive": Input("CONDITIONING", True),
        },
        ("LATENT",),
    ),
    "VAEDecode": NodeInfo({"samples": Input("LATENT", True), "vae": Input("VAE", True)}, ("IMAGE",)),
    "SaveImage": NodeInfo({"images": Input("IMAGE", True)}, ()),
}  # fmt: skip


def one(
    type_: str, *, node: str = "5", name: str | None = None, details: str = "", **extra: Any
) -> InputError:
    return InputError(type_, f"ComfyUI's message of {type_}", details, name, {"input_name": name, **extra})


def sentence(error: InputError, *, node: str = "5", **inputs: Any) -> str:
    graph = graphs.txt2img()
    graph[node]["inputs"] = {**graph[node]["inputs"], **inputs}
    errors = NodeErrors(node, graph[node]["class_type"], [error], ["7"])
    return refusals.explain(errors, error, graph, CLASSES).sentence


SAMPLER = "Node 5 (Sampler, KSampler): "
# ComfyUI's type of error, what stands in the node, and our sentence.
TABLE = [
    (one("required_input_missing", name="steps", details="steps"), {}, "input 'steps' is missing"),
    (
        one("required_input_missing", name="sampler_name", details="sampler_name"), {"samplerName": "euler"},
        "input 'sampler_name' is missing; it has no input 'samplerName', did you mean 'sampler_name'?",
    ),
    (
        one("bad_linked_input", name="model", details="model"), {"model": [1, 2, 3]},
        "input 'model' is a list of 3; a link is [node id, output], and a list that is meant as a value is "
        'written {"__value__": [...]}',
    ),
    (
        one("return_type_mismatch", name="model", details="x", received_type="CLIP", input_config=["MODEL", {}]),
        {"model": ["1", 1]},
        "input 'model' takes MODEL, but output 1 of Node 1 (CheckpointLoaderSimple) gives CLIP; output 0 gives MODEL",
    ),
    (
        one("exception_during_inner_validation", name="samples", details="tuple index out of range"),
        {"model": ["1", 7]},
        "input 'model' is linked to output 7 of node 1 (CheckpointLoaderSimple); they count from 0, and it has 3 "
        "(MODEL, CLIP, VAE)",
    ),
    (
        one("exception_during_validation", details="'9'"), {"model": ["9", 0]},
        "input 'model' is linked to node '9', which does not exist",
    ),
    (
        one("exception_during_validation", details="maximum recursion depth", exception_type="RecursionError"), {},
        "the chain of nodes before it is longer than ComfyUI can follow",
    ),
    (
        one("exception_during_validation", details="boom", exception_type="ZeroDivisionError"), {},
        "ComfyUI could not check it (ZeroDivisionError: boom)",
    ),
    (
        one("invalid_input_type", name="steps", details="x", input_config=["INT", {}]), {"steps": "many"},
        "input 'steps' is 'many', which cannot be read as INT",
    ),
    (
        one("value_smaller_than_min", name="steps", input_config=["INT", {"min": 1, "max": 10000}]), {"steps": 0},
        "input 'steps' is 0; 1 to 10000 is allowed",
    ),
    (
        one("value_bigger_than_max", name="steps", input_config=["INT", {"max": 9}]), {"steps": 10},
        "input 'steps' is 10; at most 9 is allowed",
    ),
    (
        one("value_not_in_list", name="sampler_name"), {"sampler_name": "euler_a"},
        "input 'sampler_name' cannot be 'euler_a'; did you mean 'euler_ancestral'? "
        "allowed: euler, euler_ancestral, dpmpp_2m",
    ),
    (
        one("value_not_in_list", name="sampler_name"), {"sampler_name": "DPM++ 2M Karras"},
        "input 'sampler_name' cannot be 'DPM++ 2M Karras'; did you mean 'dpmpp_2m'? "
        "allowed: euler, euler_ancestral, dpmpp_2m",
    ),
    (
        one("value_not_in_list", name="sampler_name"), {"sampler_name": "Euler a"},
        "input 'sampler_name' cannot be 'Euler a'; did you mean 'euler_ancestral'? "
        "allowed: euler, euler_ancestral, dpmpp_2m",
    ),
    (
        one("invalid_input_type", name="steps", details="x", input_config=["INT", {}]), {"steps": None},
        "input 'steps' is null, which cannot be read as INT",
    ),
    (
        one("custom_validation_failed", name="steps", details="steps - must be even"), {"steps": 3},
        "input 'steps' is 3: must be even",
    ),
    (
        one("dependency_cycle", cycle_nodes=["5", "6", "5"]), {},
        "the nodes are linked in a circle: 5 -> 6 -> 5",
    ),
    (
        InputError("brand_new", "It is new", "quite new", None, {}), {},
        "It is new (quite new) [brand_new]",
    ),
]  # fmt: skip


@pytest.mark.parametrize("error, inputs, told", TABLE, ids=[row[0].type for row in TABLE])
def test_each_type_has_its_sentence(error, inputs, told):
    assert sentence(error, **inputs) == SAMPLER + told


@pytest.mark.parametrize("type_", ["brand_new", "exception_during_validation", "custom_validation_failed"])
def test_a_long_text_of_comfyuis_own_is_passed_on_whole(type_):
    text = " ".join(str(number) for number in range(5_000))
    details = f"steps - {text}" if type_ == "custom_validation_failed" else text
    assert text in sentence(InputError(type_, "It is new", details, "steps", {}))


def test_a_very_long_text_is_truncated_and_says_so():
    told = sentence(InputError("brand_new", "x" * 100_000, "", None, {}))
    assert len(told) < 33_000
    assert "… (cut off; 100,000 characters) [brand_new]" in told


def test_a_nodes_error_is_reported_completely():
    text = "; ".join(f"layer {number} does not fit" for number in range(500))
    raised = ExecutionError("5", "KSampler", "RuntimeError", text, [], [])
    fault = comfyui_errors.of_error(raised, graphs.txt2img())
    assert fault.error == f"Node 5 (Sampler) failed: {text}"
    assert fault.details["message"] == text


def test_the_table_has_every_type_that_we_know():
    assert {row[0].type for row in TABLE} >= set(refusals.SENTENCES)


def whole(type_: str, message: str = "", details: str = "") -> comfyui_errors.Fault:
    graph = graphs.txt2img()
    graph["5"]["class_type"], graph["6"]["class_type"] = "KSampler2", "VAEDecod"
    refused = Refused(type=type_, message=message, details=details)
    return comfyui_errors.of_refusal(refused, graph, CLASSES)


@pytest.mark.parametrize("type_", ["invalid_prompt", "missing_node_type"])
def test_all_nodes_that_are_not_installed_are_named(type_):
    fault = whole(type_, "Cannot execute because node KSampler2 does not exist.", "Node ID '#5'")
    assert fault.error == (
        "Node 5 (Sampler, KSampler2): no node of the class 'KSampler2' is installed; did you mean 'KSampler'?; "
        "Node 6: no node of the class 'VAEDecod' is installed; did you mean 'VAEDecode'?"
    )
    assert fault.lacks == ["KSampler2", "VAEDecod"]


@pytest.mark.parametrize(
    "type_, told",
    [
        ("prompt_no_outputs", "The workflow has no output node"),
        ("invalid_prompt_id", "ComfyUI rejected the workflow: the message (the details)"),
        ("no_prompt", "ComfyUI rejected the workflow: the message (the details)"),
        ("prompt_outputs_failed_validation", "ComfyUI rejected the workflow: the message (the details)"),
        ("something_newer", "ComfyUI rejected the workflow: the message (the details)"),
    ],
)
def test_an_error_of_the_whole_prompt(type_, told):
    assert whole(type_, "the message", "the details").error.startswith(told)


# -- the real one ----------------------------------------------------------------------------------------
def chain(nodes: int) -> graphs.Graph:
    graph = {"0": graphs.colour(nodes)["1"]}
    for i in range(1, nodes - 1):
        graph[str(i)] = {"class_type": "ImageInvert", "inputs": {"image": [str(i - 1), 0]}}
    graph["end"] = {
        "class_type": "SaveImage",
        "inputs": {"images": [str(nodes - 2), 0], "filename_prefix": "x"},
    }
    return graph


def test_the_deepest_chain_that_is_accepted_runs(gpu_worker):
    person = gpu_worker.person()
    assert person.result(person.execute(chain(MAX_DEPTH)), seconds=60)["status"] == "completed"
    answer = person.post("/workflows/execute", {"workflow": chain(MAX_DEPTH + 1)})
    assert answer.status_code == 400
    [detail] = answer.json()["details"]
    assert (detail["code"], detail["field"]) == ("TOO_DEEP", "workflow.end")


@pytest.mark.parametrize("link", [[1, 0], ["1", "0"], ["1", 0.0]])
def test_links_of_other_types_work(gpu_worker, link):
    person = gpu_worker.person()
    graph = graphs.colour(7)
    graph["2"]["inputs"]["images"] = link
    assert person.result(person.execute(graph))["status"] == "completed"


@pytest.mark.parametrize(
    "link, told",
    [
        (
            ["1", 7],
            "input 'images' is linked to output 7 of node 1 (EmptyImage); they count from 0, and it has 1",
        ),
        (
            [1024, 768],
            "input 'images' is [1024, 768], which is no link [node id, output]; a list that is meant",
        ),
    ],
)
def test_a_link_to_nothing_is_refused_at_submission(gpu_worker, link, told):
    graph = graphs.colour(7)
    graph["2"]["inputs"]["images"] = link
    answer = gpu_worker.person().post("/workflows/execute", {"workflow": graph})
    assert answer.status_code == 400, answer.text
    [detail] = answer.json()["details"]
    assert detail["field"] == "workflow.2.inputs.images"
    assert told in detail["message"]


def test_the_real_comfyui_reports_several_errors_at_once(gpu_worker):
    person = gpu_worker.person()
    graph = graphs.txt2img()
    graph["5"]["inputs"] |= {"steps": 0, "sampler_name": "euler_a", "cfg": "high"}
    graph["4"]["inputs"]["width"] = 5
    del graph["2"]["inputs"]["text"]
    result = person.result(person.execute(graph))
    assert result["status"] == "failed"
    for told in (
        "Node 5 (Sampler, KSampler): input 'steps' is 0; 1 to 10000 is allowed",
        "input 'sampler_name' cannot be 'euler_a'; did you mean",
        "input 'cfg' is 'high', which cannot be read as FLOAT",
        "Node 4 (EmptyLatentImage): input 'width' is 5; 16 to 16384 is allowed",
        "Node 2 (CLIPTextEncode): input 'text' is missing",
    ):
        assert told in result["error"], result["error"]
    errors = {each["input"]: each for each in result["error_details"]["node_errors"]["5"]["errors"]}
    assert errors["sampler_name"]["value"] == "euler_a"
    assert "euler_ancestral" in errors["sampler_name"]["near"]
