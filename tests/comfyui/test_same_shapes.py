"""The scripted ComfyUI answers in the shapes of the real one: keys and types, not values."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
import requests
import websocket

from tests.comfyui.targets import failing, partly_wrong, picture, sampling, scripted_steps, text

OPEN = {"extra_info", "current_inputs", "current_outputs", "embedded", "traceback"}  # free by nature


def shape(value: Any, key: str = "") -> Any:
    """What of a value does not depend on the run: keys, types, and strings that name a kind."""
    if isinstance(value, dict):
        if key in OPEN:
            return "free"
        return {str(name): shape(each, name) for name, each in sorted(value.items())}
    if isinstance(value, list):
        if key in OPEN:
            return "free"
        shapes: list[Any] = []
        for each in value:
            if (shaped := shape(each)) not in shapes:
                shapes.append(shaped)
        return shapes
    if key in ("type", "class_type", "node_type", "status_str", "exception_type"):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


class Conversation:
    """One client that talks to a ComfyUI as it likes, without our client."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client_id = uuid.uuid4().hex
        address = f"{url.replace('http', 'ws', 1)}/ws?clientId={self.client_id}"
        self.socket = websocket.create_connection(address, timeout=30)
        self.socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))

    def submit(self, graph, **more) -> requests.Response:
        self.prompt_id = str(uuid.uuid4())
        body = {"prompt": graph, "prompt_id": self.prompt_id, "client_id": self.client_id}
        return requests.post(f"{self.url}/prompt", json=body | more, timeout=30)

    def get(self, path: str):
        return requests.get(self.url + path, timeout=30).json()

    def messages(self) -> list[Any]:
        """Up to the end of the run. How often a status comes is a matter of time, so each kind is told
        once, at its first place; the others in their order."""
        seen: list[Any] = []
        while True:
            frame = self.socket.recv()
            if isinstance(frame, bytes):
                continue
            message = json.loads(frame)
            if shape(message) not in seen:
                seen.append(shape(message))
            if message["type"] == "executing" and message["data"]["node"] is None:
                return seen


@pytest.fixture
def both(comfyui_url, scripted):
    conversations = [Conversation(url) for url in (comfyui_url, scripted.url)]
    yield conversations
    for each in conversations:
        each.socket.close()


def test_an_accepted_prompt(both):
    real, scripted = (shape(each.submit(picture()).json()) for each in both)
    assert scripted == real


@pytest.mark.parametrize(
    "graph",
    [
        {},
        {"7": {"class_type": "Nope", "inputs": {}}},
        {"1": picture()["1"]},
        picture(width=0),
        picture(width=10**6),
        {"2": {"class_type": "SaveImage", "inputs": {}}},
        partly_wrong(),
    ],
    ids=["empty", "unknown class", "no output", "too small", "too large", "inputs missing", "partly wrong"],
)
def test_a_faulty_prompt(both, graph):
    real, scripted = (each.submit(graph) for each in both)
    assert scripted.status_code == real.status_code
    assert shape(scripted.json()) == shape(real.json())


@pytest.mark.parametrize("graph", [picture, failing, lambda: text(uuid.uuid4().hex)])
def test_the_messages_and_the_history_of_a_run(both, graph):
    told, kept = [], []
    for each in both:
        each.submit(graph())
        told.append(each.messages())
        kept.append(shape(each.get(f"/history/{each.prompt_id}")[each.prompt_id]))
    assert told[1] == told[0]
    assert kept[1] == kept[0]


def test_an_unknown_history(both):
    real, scripted = (each.get("/history/nothing") for each in both)
    assert scripted == real == {}


@pytest.mark.parametrize("path", ["/queue", "/prompt", "/features", "/object_info/EmptyImage"])
def test_an_idle_ones_answers(both, path):
    real, scripted = (each.get(path) for each in both)
    assert set(scripted) == set(real)


def test_the_queue_while_one_runs(both, comfyui_url):
    shapes = []
    for each, graph in zip(both, (sampling(steps=2000), scripted_steps(seconds=300, steps=10)), strict=True):
        each.submit(graph)
        while json.loads(text_frame(each))["type"] != "executing":
            pass
        [item] = each.get("/queue")["queue_running"]
        shapes.append([shape(part) for part in (item[0], item[1], item[3], item[4])])
        requests.post(f"{each.url}/interrupt", json={"prompt_id": each.prompt_id}, timeout=30)
        each.messages()
    assert shapes[1] == shapes[0]


def text_frame(conversation: Conversation) -> str:
    while isinstance(frame := conversation.socket.recv(), bytes):
        pass
    return frame


def test_the_machine(both):
    real, scripted = (each.get("/system_stats") for each in both)
    assert set(scripted["system"]) <= set(real["system"])
    assert [set(device) for device in scripted["devices"]] == [set(device) for device in real["devices"]]
