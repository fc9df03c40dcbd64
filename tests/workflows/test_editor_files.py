"""Files saved by ComfyUI's editor are accepted, and converted as the editor itself would.

That it equals the editor's own conversion is tested against the real one in `test_editor_templates`.
"""

from __future__ import annotations

import copy
import json
from datetime import datetime
from io import BytesIO
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from accounts.models import User
from files import storing
from files.incoming import Incoming
from tests.factories import assert_error
from tests.workflows.editor_files import (
    OBJECT_INFO,
    SIMPLE_PROMPT,
    File,
    accepted,
    node_info,
    refused,
    simple,
    worker_with_its_nodes,
)
from workflows.graph.editor.conversion import to_prompt
from workflows.models import Execution, Worker


@pytest.fixture
def worker(db: Any) -> Worker:
    return worker_with_its_nodes()


def converted(file: File, **options: Any) -> dict[str, Any]:
    found = to_prompt(file.data, OBJECT_INFO, **options)
    assert found.errors == []
    return found.prompt


# -- forms ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("as_objects", [False, True])
def test_both_schemas_of_the_editor(alice, worker, as_objects):
    assert accepted(alice, simple(links_as_objects=as_objects).data) == SIMPLE_PROMPT


def test_a_prompt_as_comfyui_is_sent_it(alice, worker):
    sent = {"prompt": SIMPLE_PROMPT, "client_id": "x", "extra_data": {"extra_pnginfo": {"workflow": {}}}}
    assert accepted(alice, sent) == SIMPLE_PROMPT


def test_it_can_be_retried(alice, worker):
    accepted(alice, simple().data)
    Execution.objects.update(status="failed")
    [execution] = Execution.objects.all()
    again = alice.post(f"/workflows/{execution.id}/retry").json()["execution_id"]
    assert Execution.objects.get(id=again).graph.prompt == SIMPLE_PROMPT


def stored(name: str, content: bytes) -> str:
    with Incoming() as incoming:
        incoming.write(content)
        return storing.accept(incoming, user=User.objects.get(username="alice"), filename=name).id


def png(**texts: Any) -> bytes:
    info, buffer = PngImagePlugin.PngInfo(), BytesIO()
    for name, value in texts.items():
        info.add_text(name, json.dumps(value))
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def webp(prompt: Any) -> bytes:
    """As ComfyUI's SaveAnimatedWEBP writes it."""
    image, buffer = Image.new("RGB", (8, 8)), BytesIO()
    exif = image.getexif()
    exif[0x0110] = f"prompt:{json.dumps(prompt)}"
    image.save(buffer, "WEBP", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("workflow.json", json.dumps(simple().data).encode()),
        ("story.app.json", json.dumps(simple(extra={"linearMode": True}).data).encode()),
        ("api.json", json.dumps(SIMPLE_PROMPT).encode()),
        ("made.png", png(prompt=SIMPLE_PROMPT, workflow={"nodes": [], "links": []})),
        ("saved.png", png(workflow=simple().data)),
        (
            "nan.png",
            png(
                prompt=SIMPLE_PROMPT | {"9": {"class_type": "X", "inputs": {}, "is_changed": [float("nan")]}}
            ),
        ),
        ("made.webp", webp(SIMPLE_PROMPT)),
    ],
)
def test_the_id_of_a_file_with_a_workflow_inside(alice, worker, name, content):
    prompt = accepted(alice, stored(name, content))
    prompt.pop("9", None)
    assert prompt == SIMPLE_PROMPT


def test_a_picture_that_was_made_here_runs_again_without_the_marks_of_its_run(alice, worker):
    ran = copy.deepcopy(SIMPLE_PROMPT)
    ran["3"]["inputs"] |= {"_comfyserve": "some-id.1", "filename_prefix": "some-id.1/cat"}
    assert accepted(alice, stored("made.png", png(prompt=ran))) == SIMPLE_PROMPT


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("plain.png", png(), "NO_WORKFLOW"),
        ("broken.png", png()[:20], "INVALID_VALUE"),
        ("list.json", b"[1]", "NO_WORKFLOW"),
        ("broken.json", b"{", "INVALID_VALUE"),
    ],
)
def test_a_file_without_a_workflow(alice, worker, name, content, code):
    assert refused(alice, stored(name, content))["workflow"][0] == code


def test_another_users_file(alice, bob, worker):
    file_id = stored("workflow.json", json.dumps(simple().data).encode())
    response = bob.post("/workflows/execute", {"workflow": file_id})
    assert assert_error(response, 400, "validation_error")["details"][0]["code"] == "FILE_NOT_FOUND"


# -- widgets -------------------------------------------------------------------------------------------
def test_values_by_name(alice, worker):
    file = simple()
    file.data["nodes"][0]["widgets_values"] = {"method": "fast", "seed": 9, "unknown": 1}
    assert converted(file)["1"]["inputs"] == {"seed": 9, "width": 64, "method": "fast"}


def test_a_list_that_is_too_short_leaves_defaults():
    file = simple()
    file.data["nodes"][0]["widgets_values"] = [9]
    assert converted(file)["1"]["inputs"] == {"seed": 9, "width": 64, "method": "fast"}


def test_lists_are_wrapped_lest_they_be_taken_for_links():
    file = simple()
    file.data["nodes"][0]["widgets_values"][3] = ["1", 0]
    assert converted(file)["1"]["inputs"]["method"] == {"__value__": ["1", 0]}


def test_a_primitive_gives_its_value_on_the_grid_of_the_widget():
    file = simple().node(9, "PrimitiveNode", [101, "fixed"], outputs=["INT"])
    file.data["nodes"][0]["inputs"] = [
        {"name": "width", "type": "INT", "widget": {"name": "width"}, "link": None}
    ]
    file.link(9, (9, 0), (1, "width"))
    assert converted(file)["1"]["inputs"]["width"] == 104
    assert "9" not in converted(file)


def test_dynamic_prompts_without_their_comments():
    file = simple()
    file.data["nodes"][1]["widgets_values"][0] = (
        "a {red|{light|dark} blue} /* what\never */cat \\{x\\} // end"
    )
    prompt = converted(file, choose=lambda choices: choices[-1])
    assert prompt["2"]["inputs"]["text"] == "a dark blue cat {x} "


def test_file_names_with_dates_and_widgets():
    file = simple()
    file.data["nodes"][2]["widgets_values"] = [
        "%date:yyyy-MM-dd%/%Noise.seed% %Words.text% %nothing.here% %x%"
    ]
    prompt = converted(file, now=datetime(2026, 3, 4))
    assert prompt["3"]["inputs"]["filename_prefix"] == "2026-03-04/5 a cat %nothing.here% %x%"


@pytest.mark.parametrize("text", ["{" * 5000, "/*" * 50_000, "%" * 50_000, "\\", "{a|"])
def test_hostile_texts_take_no_time_and_do_no_harm(text):
    file = simple()
    file.data["nodes"][1]["widgets_values"][0] = text
    file.data["nodes"][2]["widgets_values"][0] = text
    converted(file)


def test_a_choice_that_brings_inputs_of_its_own():
    options = [
        {"key": "by size", "inputs": {"required": {"width": ["INT", {"default": 64}], "mask": ["MASK"]}}},
        {"key": "by factor", "inputs": {"required": {"factor": ["FLOAT", {"default": 1.0}]}}},
    ]
    resize = {
        "image": ["IMAGE"],
        "mode": ["COMFY_DYNAMICCOMBO_V3", {"options": options}],
        "method": [["fast", "good"]],
    }
    known = OBJECT_INFO | {"Resize": node_info(resize, ("IMAGE",))}
    for values, inputs in (
        (["by size", 512, "good"], {"mode": "by size", "mode.width": 512, "method": "good"}),
        (["by factor", 2.5, "fast"], {"mode": "by factor", "mode.factor": 2.5, "method": "fast"}),
        ([], {"mode": "by size", "mode.width": 64, "method": "fast"}),
    ):
        file = simple().node(9, "Resize", values, inputs=["image"]).link(9, (1, 0), (9, "image"))
        found = to_prompt(file.data, known)
        assert found.prompt["9"]["inputs"] == {**inputs, "image": ["1", 0]}


def test_values_of_undeclared_widgets_are_warnings():
    file = simple()
    file.data["nodes"][0]["widgets_values"].append("more")
    found = to_prompt(file.data, OBJECT_INFO)
    assert found.prompt == SIMPLE_PROMPT
    assert "the last 1 of its saved values" in found.warnings[0]


def test_group_nodes_of_older_editors_are_rejected_with_a_solution(alice, worker):
    file = simple().node(9, "workflow>My group", [1], inputs=["image"]).link(9, (1, 0), (9, "image"))
    code, message = refused(alice, file.data)["workflow.nodes.3.type"]
    assert code == "UNSUPPORTED_NODE"
    assert "subgraph" in message


# -- links ---------------------------------------------------------------------------------------------
def test_notes_reroutes_and_groups():
    file = (
        simple()
        .node(8, "Note", ["remember"])
        .node(9, "MarkdownNote", ["# remember"])
        .node(7, "Reroute", inputs=[""], outputs=["*"])
        .link(8, (2, 0), (7, ""))
        .link(9, (7, 0), (3, "images"))
    )
    file.data["groups"] = [{"title": "Group", "bounding": [0, 0, 10, 10]}]
    assert converted(file) == SIMPLE_PROMPT


def test_a_bypassed_node_passes_on_what_fits():
    file = simple()
    file.data["nodes"][1]["mode"] = 4
    prompt = converted(file)
    assert set(prompt) == {"1", "3"}
    assert prompt["3"]["inputs"]["images"] == ["1", 0]


def test_a_muted_node_is_left_out_with_the_links_to_it():
    file = simple()
    file.data["nodes"][1]["mode"] = 2
    assert converted(file)["3"]["inputs"] == {"filename_prefix": "cat"}


def test_thousands_of_reroutes():
    file = simple()
    for i in range(3000):
        file.node(100 + i, "Reroute", inputs=[""], outputs=["*"])
        file.link(100 + i, (100 + i - 1 if i else 2, 0), (100 + i, ""))
    file.link(9999, (3099, 0), (3, "images"))
    assert converted(file)["3"]["inputs"]["images"] == ["2", 0]


# -- what can not be converted -------------------------------------------------------------------------
def test_classes_that_no_worker_has_are_reported_by_node(alice, worker):
    file = simple()
    file.data["nodes"][1]["type"] = "Txet"
    code, message = refused(alice, file.data)["workflow.nodes.1.type"]
    assert code == "UNKNOWN_NODE"
    assert message == "Node 2 (Words): no worker has a node of the class 'Txet'; did you mean 'Text'?"


def test_an_unknown_node_that_does_not_run_does_not_matter():
    for mode in (2, 4):
        file = (
            simple()
            .node(9, "Gone", [1], inputs=["x"], outputs=["IMAGE"], mode=mode)
            .link(9, (2, 0), (9, "x"))
        )
        assert converted(file) == SIMPLE_PROMPT


def test_an_unknown_node_that_is_linked_to_nothing_is_left_out_with_a_warning():
    found = to_prompt(simple().node(9, "Fancy note", ["hello"]).data, OBJECT_INFO)
    assert found.prompt == SIMPLE_PROMPT
    assert "Fancy note" in found.warnings[0]


def test_inputs_that_only_the_editor_page_can_create_are_reported(alice, worker):
    file = simple().node(9, "WebcamCapture", [""], outputs=["IMAGE"])
    assert refused(alice, file.data)["workflow.nodes.3"][0] == "NEEDS_EDITOR"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda file: file["nodes"].append(5), "workflow.nodes.3"),
        (lambda file: file["nodes"][0].pop("id"), "workflow.nodes.0.id"),
        (lambda file: file["nodes"][0].update(type=None), "workflow.nodes.0.type"),
        (lambda file: file["nodes"][0].update(widgets_values="x"), "workflow.nodes.0.widgets_values"),
        (lambda file: file["nodes"][1].update(id=1), "workflow.nodes.1.id"),
        (lambda file: file["nodes"][2]["inputs"][0].update(link=99), "workflow.nodes.2"),
        (lambda file: file["nodes"].pop(1), "workflow.nodes.1"),
        (lambda file: file.update(links=[[1]]), "workflow.links.0"),
        (lambda file: file.update(links=7), "workflow.links"),
        (lambda file: file.update(definitions={"subgraphs": [None]}), "workflow.definitions.subgraphs.0"),
        (lambda file: file.update(nodes=[]), "workflow.nodes"),
    ],
)  # fmt: skip
def test_malformed_files_are_refused_by_field(alice, worker, change, field):
    file = copy.deepcopy(simple().data)
    change(file)
    assert field in refused(alice, file)


def test_before_any_worker_has_reported_its_nodes(alice):
    response = alice.post("/workflows/execute", {"workflow": simple().data})
    assert_error(response, 503, "service_unavailable")
    assert response["Retry-After"]
