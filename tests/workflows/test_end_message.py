"""What the message about an end carries, so that those who wait for it need not read."""

from __future__ import annotations

import json
from typing import Any

from script.harness import graphs
from tests.workflows.rig import ends
from workflows.presentation import end_message, representations, selectors
from workflows.queue import transitions


def test_it_has_the_rows_of_the_result(rig, monkeypatch):
    told = ends(monkeypatch)
    execution_id = rig.run(graphs.colour(1))
    rig.ends(execution_id, "completed")
    assert rig.slots.wait_empty(timeout=20)
    [message] = told
    assert (message["id"], message["status"]) == (execution_id, "completed")
    found = end_message.unpack(message["rows"])
    assert found is not None
    read = selectors.whole(found.execution.id)
    assert read is not None
    assert message["user"] == read.execution.user_id
    for got, wanted in (([found.execution], [read.execution]), (found.outputs, read.outputs)):
        assert [values(each) for each in got] == [values(each) for each in wanted]
    assert [values(line) for line in found.lines] == [values(line) for line in read.lines]
    shown = [representations.result_of(each, base="https://here") for each in (found, read)]
    assert plain(shown[0]) == plain(shown[1])
    assert shown[0]["outputs"]["images"]


def test_the_message_of_a_failed_execution_has_no_rows(rig, monkeypatch):
    told = ends(monkeypatch)
    failing = {
        "1": {"class_type": "Fail", "inputs": {}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    rig.ends(rig.run(failing), "failed")
    assert rig.slots.wait_empty(timeout=20)  # the message is sent after the commit
    assert [(message["status"], message["rows"]) for message in told] == [("failed", None)]


def test_a_long_result_is_left_out_of_the_message(rig, monkeypatch):
    told = ends(monkeypatch)
    monkeypatch.setattr(end_message, "LONGEST", 100)
    rig.ends(rig.run(graphs.colour(1)), "completed")
    assert rig.slots.wait_empty(timeout=20)
    assert [message["rows"] for message in told] == [None]


def test_rows_of_another_version_are_not_read(rig, monkeypatch):
    told = ends(monkeypatch)
    rig.ends(rig.run(graphs.colour(1)), "completed")
    assert rig.slots.wait_empty(timeout=20)
    rows = json.loads(told[0]["rows"])
    del rows["execution"]["gpu_seconds"]
    assert end_message.unpack(json.dumps(rows)) is None


def test_an_uncommitted_end_is_not_announced(rig, monkeypatch):
    told = ends(monkeypatch)
    original = transitions.end_claimed

    def lose(*args: Any, **kwargs: Any) -> Any:
        read = original(*args, **kwargs)
        return lambda: read() and None  # as after a claim that was lost

    monkeypatch.setattr(transitions, "end_claimed", lose)
    execution_id = rig.run(graphs.colour(1))
    rig.comfyui.wait_for(lambda: execution_id in rig.comfyui.history)
    assert rig.slots.wait_empty(timeout=20)
    assert told == []
    assert rig.status(execution_id) != "completed"


def values(instance: Any) -> dict[str, Any]:
    return {field.attname: getattr(instance, field.attname) for field in instance._meta.concrete_fields}


def plain(shown: dict[str, Any]) -> Any:
    return json.loads(json.dumps({**shown, "metadata": shown["metadata"].text}, default=str))
