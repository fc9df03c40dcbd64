from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from comfyui import Client
from comfyui.bridge import Bridge
from script.harness.stack import Person, Stack
from script.harness.waiting import wait_for

CHECKPOINT = "tiny-sd15.safetensors"
LISTED = 45  # seconds; the first start of a ComfyUI is slow, and a worker reports when it has connected


def sleeping(seconds: float) -> dict[str, Any]:
    """A workflow that keeps ComfyUI busy for so long, never the same twice."""
    inputs = {"seconds": seconds, "steps": 30, "seed": random.getrandbits(60)}
    return {
        "1": {"class_type": "TestSleep", "inputs": inputs},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


@pytest.fixture
def client(comfyui: Any) -> Iterator[Client]:
    with Client(comfyui.url) as client:
        yield client


@pytest.fixture
def bridge(client: Client) -> Bridge:
    return Bridge(client)


@pytest.fixture
def person(gpu_worker: Stack) -> Person:
    """Someone who may manage models, when the worker has told what there is."""
    person = gpu_worker.person()
    wait_for(
        lambda: person.get("/models/?available_only=true").json()["models"],
        seconds=LISTED,
        what="the models of the worker",
    )
    return person


@pytest.fixture
def model(person: Person) -> Callable[[str], dict[str, Any]]:
    """The status of a model, as it is now."""

    def status(name: str) -> dict[str, Any]:
        answer = person.get(f"/models/{name}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    return status
