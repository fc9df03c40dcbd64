"""The bridge keeps ComfyUI's messages about a large workflow from delaying those about others."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import websocket

from comfyui import Client
from script.harness import graphs

NODES = 600
WHILE_SMALL = 2 * 50 * 50  # node states in the messages before the workflow counts as large
STATES_PER_SECOND = 10_000


def chain(nodes: int) -> graphs.Graph:
    graph = graphs.colour(1)
    last = "1"
    for number in range(10, 10 + nodes):
        graph[str(number)] = {"class_type": "ImageInvert", "inputs": {"image": [last, 0]}}
        last = str(number)
    graph["2"]["inputs"]["images"] = [last, 0]
    return graph


def messages_of(socket: websocket.WebSocket, prompt_id: str) -> list[dict[str, Any]]:
    """All messages up to the end of the prompt."""
    seen = []
    while True:
        message = json.loads(socket.recv())
        if message["data"].get("prompt_id") == prompt_id:
            seen.append(message)
            if message["type"] == "execution_success":
                return seen


def test_states_of_nodes_are_sent_at_a_bounded_rate(comfyui):
    client_id, prompt_id = str(uuid.uuid4()), str(uuid.uuid4())
    address = f"{comfyui.url.replace('http', 'ws', 1)}/ws?clientId={client_id}"
    socket = websocket.create_connection(address, timeout=60)
    with Client(comfyui.url) as client:
        began = time.monotonic()
        client.submit(prompt=chain(NODES), prompt_id=prompt_id, client_id=client_id)
        seen = messages_of(socket, prompt_id)
        took = time.monotonic() - began
    socket.close()
    assert len([each for each in seen if each["type"] == "executing"]) >= NODES
    states = [each["data"]["nodes"] for each in seen if each["type"] == "progress_state"]
    assert sum(map(len, states)) < WHILE_SMALL + STATES_PER_SECOND * took + NODES
    begun = 0
    for each in seen:
        begun += each["type"] == "executing"
        if each["type"] == "progress_state":
            assert len(each["data"]["nodes"]) >= begun - 1  # the whole state, however many were skipped
