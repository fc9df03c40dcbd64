"""Subgraphs in files saved by ComfyUI's editor."""

from __future__ import annotations

from typing import Any

import pytest

from tests.workflows.editor_files import (
    OBJECT_INFO,
    File,
    accepted,
    refused,
    subgraph,
    worker_with_its_nodes,
)
from workflows.graph.editor.conversion import to_prompt
from workflows.models import Worker


@pytest.fixture
def worker(db: Any) -> Worker:
    return worker_with_its_nodes()


def nested() -> File:
    """SaveImage of a subgraph with a subgraph inside it, whose widgets are shown outside."""
    inner = (
        subgraph("inner", inputs=("image", "text"), outputs=("out",))
        .node(1, "Text", ["inside", 2.0], inputs=["image", "text!"], outputs=["IMAGE"])
        .link(1, (-10, 0), (1, "image"))
        .link(2, (-10, 1), (1, "text"))
        .link(3, (1, 0), (-20, "0"))
    )
    outer = (
        subgraph("outer", inputs=("text", "width"), outputs=("out",))
        .node(5, "Noise", [7, "fixed", 256, "fast"], inputs=["width!"], outputs=["IMAGE"])
        .node(6, "inner", ["between"], inputs=["image", "text!"], outputs=["IMAGE"])
        .link(1, (5, 0), (6, "image"))
        .link(2, (-10, 0), (6, "text"))
        .link(3, (-10, 1), (5, "width"))
        .link(4, (6, 0), (-20, "0"))
    )
    return (
        File(definitions={"subgraphs": [outer.data, inner.data]})
        .node(10, "outer", ["outside", 512], inputs=["text!", "width!"], outputs=["IMAGE"])
        .node(11, "outer", ["twice"], inputs=["text!", "width!"], outputs=["IMAGE"])
        .node(12, "SaveImage", ["one"], inputs=["images"])
        .node(13, "SaveImage", ["two"], inputs=["images"])
        .link(1, (10, 0), (12, "images"))
        .link(2, (11, 0), (13, "images"))
    )


def test_subgraphs_in_each_other_with_the_widgets_that_they_show(alice, worker):
    prompt = accepted(alice, nested().data)
    assert {id_: node["class_type"] for id_, node in prompt.items()} == {
        "10:5": "Noise", "10:6:1": "Text", "11:5": "Noise", "11:6:1": "Text",
        "12": "SaveImage", "13": "SaveImage",
    }  # fmt: skip
    assert prompt["10:6:1"]["inputs"] == {"text": "outside", "strength": 2.0, "image": ["10:5", 0]}
    assert prompt["11:6:1"]["inputs"]["text"] == "twice"
    assert prompt["10:5"]["inputs"] == {"seed": 7, "width": 512, "method": "fast"}
    assert prompt["11:5"]["inputs"]["width"] == 256
    assert prompt["12"]["inputs"]["images"] == ["10:6:1", 0]


def test_a_subgraph_instances_values_are_reported_by_its_inputs():
    found = to_prompt(nested().data, OBJECT_INFO)
    assert found.promoted["10", "text"] == [("10:6:1", "text")]
    assert found.promoted["11", "width"] == [("11:5", "width")]
    assert found.paths["10:6:1", "text"] == "workflow.nodes.0.widgets_values.0"


def test_values_in_the_order_of_the_widgets_shown():
    file = nested()
    file.data["nodes"][0] |= {
        "properties": {"proxyWidgets": [["5", "seed"], ["-1", "width"], ["-1", "text"]]},
        "widgets_values": [None, 1024, "by list"],
    }
    found = to_prompt(file.data, OBJECT_INFO)
    assert found.prompt["10:5"]["inputs"]["width"] == 1024
    assert found.prompt["10:6:1"]["inputs"]["text"] == "by list"
    assert found.promoted["10", "seed"] == [("10:5", "seed")]


def test_a_recursive_subgraph_is_rejected(alice, worker):
    file = nested()
    file.data["definitions"]["subgraphs"][1]["nodes"][0]["type"] = "outer"
    assert refused(alice, file.data)["workflow.definitions"][0] == "CYCLE"


def test_subgraphs_that_would_unfold_without_end_are_refused(alice, worker):
    levels = [subgraph("0").node(1, "Noise", [])]
    for i in range(1, 40):
        levels.append(subgraph(str(i)).node(1, str(i - 1)).node(2, str(i - 1)))
    file = File(definitions={"subgraphs": [level.data for level in levels]}).node(1, "39")
    assert refused(alice, file.data)["workflow"][0] == "TOO_MANY_NODES"
