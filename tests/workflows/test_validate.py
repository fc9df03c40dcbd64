"""POST /workflows/validate: what ComfyUI's validation would say, without running anything."""

from __future__ import annotations

import copy
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from comfyui import Client
from comfyui.errors import Refused
from comfyui.types import NodeErrors
from models_registry.models import Host, Model, ModelFile
from script.harness import graphs
from tests.factories import Api, assert_error
from tests.workflows.editor_files import OBJECT_INFO, SIMPLE_PROMPT, node_info, simple
from workflows.fleet import registry
from workflows.graph import object_info, validation
from workflows.graph.node_info import cached_digests
from workflows.models import Execution, ObjectInfo, Worker

LOADER = {"Loader": node_info({"ckpt_name": [["dream.safetensors", "old.safetensors"]]}, ("MODEL",))}


@pytest.fixture(autouse=True)
def clear_caches():
    """Caches hold what other tests stored."""
    object_info.of.cache_clear()
    object_info._union.cache_clear()
    cached_digests.forget()
    registry.cached_any_alive.forget()


def worker(name: str, info: dict[str, Any] = OBJECT_INFO, **more: Any) -> Worker:
    row = ObjectInfo.objects.create(digest=name.ljust(64, "0"), body=info)
    return Worker.objects.create(name=name, host="h", pid=1, url="u", reachable=True, object_info=row, **more)


@pytest.fixture
def gpu(db: Any) -> Worker:
    return worker("gpu")


def report(alice: Any, workflow: Any) -> dict[str, Any]:
    response = alice.post("/workflows/validate", {"workflow": workflow})
    assert response.status_code == 200, response.content
    assert Execution.objects.count() == 0
    found: dict[str, Any] = response.json()
    return found


def changed(node: str, **inputs: Any) -> dict[str, Any]:
    """The simple prompt with other inputs of one node; None takes one away."""
    prompt = copy.deepcopy(SIMPLE_PROMPT)
    prompt[node]["inputs"] |= inputs
    prompt[node]["inputs"] = {
        name: value for name, value in prompt[node]["inputs"].items() if value is not None
    }
    return prompt


def test_a_good_workflow(alice, gpu):
    found = report(alice, SIMPLE_PROMPT)
    assert found["valid"] is True
    assert found["certain"] is True
    assert found["problems"] == []
    assert found["outputs"] == [
        {"node_id": "3", "title": "SaveImage", "class_type": "SaveImage", "will_run": True}
    ]
    [candidate] = found["workers"]
    assert (candidate["name"], candidate["alive"], candidate["can_run"]) == ("gpu", True, True)
    assert found["estimated_duration"] is None


def test_a_file_of_the_editor(alice, gpu):
    assert report(alice, simple().data)["valid"] is True


@pytest.mark.parametrize(
    ("workflow", "code", "field", "said"),
    [
        (changed("1", width=9999), "VALUE_BIGGER_THAN_MAX", "workflow.1.inputs.width", "16 to 4096 is"),
        (changed("1", width=1), "VALUE_SMALLER_THAN_MIN", "workflow.1.inputs.width", "16 to 4096 is"),
        (changed("1", width="wide"), "INVALID_INPUT_TYPE", "workflow.1.inputs.width", "INT"),
        (changed("1", method="fats"), "VALUE_NOT_IN_LIST", "workflow.1.inputs.method", "did you mean 'fast'"),
        (changed("2", image=None), "REQUIRED_INPUT_MISSING", "workflow.2", "'image' is missing"),
        (changed("3", images=["1", 1]), "INVALID_LINK", "workflow.3.inputs.images", "output 1"),
        (changed("3", images=["9", 0]), "INVALID_LINK", "workflow.3.inputs.images", "does not exist"),
        ({"1": SIMPLE_PROMPT["1"]}, "NO_OUTPUTS", None, "no output node"),
        (
            {**SIMPLE_PROMPT, "1": {**SIMPLE_PROMPT["1"], "class_type": "Nosie"}},
            "UNKNOWN_NODE", "workflow.1.class_type", "did you mean 'Noise'",
        ),
    ],
)  # fmt: skip
def test_an_invalid_value_is_reported_with_the_allowed_values(alice, gpu, workflow, code, field, said):
    found = report(alice, workflow)
    [problem] = found["problems"]
    assert (found["valid"], problem["code"], problem["field"]) == (False, code, field)
    assert said in problem["message"]
    assert problem["certain"] is True


def test_links_of_the_wrong_type_with_both_types(alice, gpu):
    prompt = copy.deepcopy(SIMPLE_PROMPT)
    prompt["4"] = {"class_type": "LoadImage", "inputs": {"image": "a.png"}}
    prompt["3"]["inputs"]["images"] = ["4", 1]
    [problem] = report(alice, prompt)["problems"]
    assert problem["code"] == "RETURN_TYPE_MISMATCH"
    assert "takes IMAGE" in problem["message"]
    assert "gives MASK" in problem["message"]


def test_the_expected_outputs_are_listed(alice, gpu):
    prompt = copy.deepcopy(SIMPLE_PROMPT)
    prompt["4"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}
    prompt["4"]["inputs"]["filename_prefix"] = "good"
    prompt["2"]["inputs"]["strength"] = 99
    found = report(alice, prompt)
    assert found["valid"] is False
    assert {each["node_id"]: each["will_run"] for each in found["outputs"]} == {"3": False, "4": True}


def test_an_unknown_node_of_the_editor_with_its_package(alice, gpu):
    file = simple()
    file.data["nodes"][1] |= {"type": "Txet", "properties": {"cnr_id": "comfyui-texts"}}
    [problem] = report(alice, file.data)["problems"]
    assert problem["code"] == "UNKNOWN_NODE"
    assert "comfyui-texts" in problem["message"]


# -- models and workers --------------------------------------------------------------------------------
def loading(name: str) -> dict[str, Any]:
    return {
        "1": {"class_type": "Loader", "inputs": {"ckpt_name": name}},
        "2": {"class_type": "Shows", "inputs": {"model": ["1", 0]}},
    }


SHOWS = node_info({"model": ["MODEL"]}, output_node=True)
# A stock node that ends with a model would count as one that saves models, and be denied.
MODELS = {**LOADER, "Shows": {**SHOWS, "python_module": "custom_nodes.shows"}}


def has_model(host: str, name: str) -> None:
    row, _ = Host.objects.get_or_create(name=host)
    model, _ = Model.objects.get_or_create(name=name, type="checkpoint")
    ModelFile.objects.create(host=row, model=model, folder="/m", path=name, size=1, changed=0)


def test_a_missing_model_with_similar_names_is_not_certain(alice, db):
    worker("gpu", MODELS)
    has_model("gpu", "dream.safetensors")
    found = report(alice, loading("Dream.ckpt"))
    [problem] = found["problems"]
    assert (found["valid"], found["certain"]) == (False, False)
    assert (problem["code"], problem["near"]) == ("MODEL_NOT_FOUND", ["dream.safetensors"])
    assert found["models"] == [
        {"name": "Dream.ckpt", "type": "checkpoint", "workers": [], "near": ["dream.safetensors"]}
    ]
    assert found["workers"][0]["lacks"] == ["Dream.ckpt"]


def test_a_model_that_was_put_there_since(alice, db):
    worker("gpu", MODELS)
    has_model("gpu", "new.safetensors")
    found = report(alice, loading("new.safetensors"))
    assert found["valid"] is True
    assert found["models"][0]["workers"] == ["gpu"]


def test_which_workers_could_run_it(alice, db):
    worker("a")
    worker("b", MODELS)
    found = report(alice, loading("dream.safetensors"))
    assert found["valid"] is True
    assert {each["name"]: (each["can_run"], each["lacks"]) for each in found["workers"]} == {
        "a": (False, ["Loader", "Shows"]), "b": (True, []),
    }  # fmt: skip


def test_reports_of_a_silent_worker_are_never_certain(alice, gpu):
    Worker.objects.update(heartbeat_at=timezone.now() - timedelta(days=1))
    found = report(alice, changed("1", width=9999))
    assert (found["valid"], found["certain"]) == (False, False)
    assert found["problems"][0]["certain"] is False
    assert "last report" in found["warnings"][0]


def test_without_any_worker_only_the_structure_is_checked(alice):
    found = report(alice, SIMPLE_PROMPT)
    assert (found["valid"], found["certain"]) == (None, False)
    assert report(alice, {"1": {"class_type": "A", "inputs": {"a": ["2", 0]}}})["valid"] is False


@pytest.mark.parametrize("value", ["file_gone", "http://127.0.0.1/x.png", "data:image/png;base64,%"])
def test_files_that_cannot_be_fetched(alice, gpu, value):
    prompt = {**SIMPLE_PROMPT, "4": {"class_type": "LoadImage", "inputs": {"image": value}}}
    [problem] = report(alice, prompt)["problems"]
    assert problem["field"] == "workflow.4.inputs.image"


def test_a_stranger_and_a_body_without_a_workflow(alice, gpu):
    assert_error(Api().post("/workflows/validate", {"workflow": {}}), 401, "unauthorized")
    assert_error(alice.post("/workflows/validate", {}), 400, "validation_error")


# -- the real one --------------------------------------------------------------------------------------
def broken(**changes: Any) -> dict[str, Any]:
    """txt2img with other inputs: `node__input`; None takes one away."""
    graph = graphs.txt2img()
    for place, value in changes.items():
        node, _, name = place.removeprefix("n").partition("__")
        graph[node]["inputs"][name] = value
        if value is None:
            del graph[node]["inputs"][name]
    return graph


def with_node(id_: str, class_type: str, **inputs: Any) -> dict[str, Any]:
    return graphs.txt2img() | {id_: {"class_type": class_type, "inputs": inputs}}


BROKEN = {
    "nothing": broken(),
    "steps too many": broken(n5__steps=20_000),
    "steps too few": broken(n5__steps=0),
    "seed below zero": broken(n5__seed=-1),
    "a number as text": broken(n5__steps="7", n5__cfg="7.5"),
    "no number": broken(n5__steps="many", n4__width=None),
    "null": broken(n5__cfg={"a": 1}),
    "an unknown sampler": broken(n5__sampler_name="eulre"),
    "an unknown checkpoint": broken(n1__ckpt_name="nope.safetensors"),
    "a missing input": broken(n5__model=None),
    "a missing widget": broken(n7__filename_prefix=None),
    "links of other types": broken(n5__model=["1", 1], n6__vae=["1", 0]),
    "three mistakes": broken(n4__width=1, n5__denoise=2, n5__scheduler="none"),
    "a list as a value": broken(n5__seed={"__value__": 5}),
    "inputs nobody knows": broken(n5__colour="red"),
    "no outputs": {"1": graphs.txt2img()["1"]},
    "an unknown class": with_node("9", "Nothing"),
    "an unknown class nobody needs": with_node("9", "Unheard", text="x"),
    "one good output of two": with_node("9", "SaveImage", images=["6", 0], filename_prefix="x") | {
        "10": {"class_type": "PreviewImage", "inputs": {}}
    },
    "a broken node that no output needs": with_node("9", "KSampler", steps=-5),
    "a picture that is not there": with_node("9", "LoadImage", image="gone.png") | {
        "10": {"class_type": "PreviewImage", "inputs": {"images": ["9", 0]}}
    },
}  # fmt: skip


def of_comfyui(
    client: Client, prompt: dict[str, Any], prompt_id: str
) -> tuple[str | None, set[tuple[str, ...]]]:
    try:
        found = client.submit(prompt=prompt, prompt_id=prompt_id, client_id="x")
    except Refused as exc:
        return exc.type, mistakes_in(exc.node_errors)
    return None, mistakes_in(found.node_errors)


def mistakes_in(errors: dict[str, NodeErrors]) -> set[tuple[str, ...]]:
    return {
        (id_, each.input_name or "", kind_of(each.type))
        for id_, node in errors.items()
        for each in node.errors
    }


def kind_of(type_: str) -> str:
    """A class that checks a file by code of its own says it in its own way."""
    return "value_not_in_list" if type_ == "custom_validation_failed" else type_


@pytest.mark.parametrize("name", BROKEN)
def test_the_verdict_is_the_real_comfyuis(comfyui, prompt_ids, name):
    prompt = BROKEN[name]
    with Client(comfyui.url) as client:
        ours = validation.verdict_of(copy.deepcopy(prompt), client.object_info())
        refusal, mistakes = of_comfyui(client, prompt, prompt_ids())
    assert (ours.refusal, mistakes_in(ours.node_errors)) == (refusal, mistakes)


@pytest.fixture
def prompt_ids(comfyui: Any) -> Any:
    """New ids of prompts; what began is taken back."""
    made: list[str] = []

    def new() -> str:
        made.append(str(uuid.uuid4()))
        return made[-1]

    yield new
    with Client(comfyui.url) as client:
        for id_ in made:
            client.delete_queued(id_)
            client.interrupt(id_)
