"""What executions tell the registry, and what it tells them."""

from __future__ import annotations

from tests.models_registry.conftest import CHECKPOINT
from tests.workflows import graphs


def test_an_execution_notes_when_its_model_was_used(person, model):
    result = person.result(person.execute(graphs.txt2img(steps=1)))
    assert result["status"] == "completed", result
    assert model(CHECKPOINT)["last_used"] >= result["started_at"][:19]


def test_a_missing_model_is_named_with_those_near_in_name(person):
    graph = graphs.txt2img(steps=1)
    graph["1"]["inputs"]["ckpt_name"] = "sd/tiny_sd15.ckpt"
    result = person.result(person.execute(graph))
    assert result["status"] == "failed"
    assert "sd/tiny_sd15.ckpt" in result["error"]
    assert CHECKPOINT in result["error"]
    assert result["error_details"]["suggestions"] == {"sd/tiny_sd15.ckpt": [CHECKPOINT]}
