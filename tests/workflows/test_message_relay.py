"""How often a worker checks whether anybody wants ComfyUI's own messages about a user's executions."""

from __future__ import annotations

import pytest

from script.harness import graphs
from workflows import notify
from workflows.worker import message_relay


@pytest.fixture
def asked(monkeypatch):
    """The users that were asked about. No answer expires."""
    found: list[int] = []
    monkeypatch.setattr(notify, "somebody_wants_comfyui_messages", lambda user_id: found.append(user_id))
    monkeypatch.setattr(message_relay, "ASK_SECONDS", 3600.0)
    monkeypatch.setattr(message_relay, "_checked", {})
    return found


def test_short_runs_of_a_user_share_one_answer(rig, asked):
    ids = [rig.submit(graphs.colour(number)) for number in range(3)]
    rig.slots.serve_in_thread()
    for execution_id in ids:
        rig.ends(execution_id, "completed")
    assert len(asked) == 1


def test_an_execution_that_names_its_client_asks_when_it_starts(rig, asked):
    ids = []
    for number in range(3):
        prompt = {"prompt": graphs.colour(number), "client_id": "editor"}
        ids.append(rig.api.post("/comfyui/prompt", prompt).json()["prompt_id"])
    rig.slots.serve_in_thread()
    for execution_id in ids:
        rig.ends(execution_id, "completed")
    assert len(asked) == 3
