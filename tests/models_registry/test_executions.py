"""What executions report to the registry, and what they read from it."""

from __future__ import annotations

from script.harness import graphs
from tests.models_registry.conftest import CHECKPOINT


def test_an_execution_notes_when_its_model_was_used(person, model):
    result = person.result(person.execute(graphs.txt2img(steps=1)))
    assert result["status"] == "completed", result
    assert model(CHECKPOINT)["last_used"] >= result["started_at"][:19]


def test_a_missing_model_is_named_with_similar_names(person):
    graph = graphs.txt2img(steps=1)
    graph["1"]["inputs"]["ckpt_name"] = "sd/tiny_sd15.ckpt"
    result = person.result(person.execute(graph))
    assert result["status"] == "failed"
    assert "sd/tiny_sd15.ckpt" in result["error"]
    assert CHECKPOINT in result["error"]
    assert result["error_details"]["suggestions"] == {"sd/tiny_sd15.ckpt": [CHECKPOINT]}


def test_an_output_left_out_for_a_missing_model_names_those_near_too(person):
    graph = graphs.colour(1) | {f"2{id_}": node for id_, node in graphs.txt2img(steps=1).items()}
    for id_ in graphs.txt2img():
        inputs = graph[f"2{id_}"]["inputs"]
        for name, value in inputs.items():
            if isinstance(value, list):
                inputs[name] = [f"2{value[0]}", value[1]]
    graph["21"]["inputs"]["ckpt_name"] = "sd/tiny_sd15.ckpt"
    result = person.result(person.execute(graph))
    assert result["status"] == "completed", result
    [left_out, near] = result["warnings"]
    assert "sd/tiny_sd15.ckpt' is not installed" in left_out
    assert near == f"near 'sd/tiny_sd15.ckpt' in name: {CHECKPOINT}"
