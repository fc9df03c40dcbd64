"""The engine in this process with a scripted ComfyUI, to trigger events at a chosen point."""

from __future__ import annotations

import json
from typing import Any

import pytest

from script.harness import graphs
from script.harness.waiting import wait_for
from tests.factories import Api, make_user
from tests.scripted_comfyui import ScriptedComfyUI
from workflows import notify
from workflows.models import Execution, Worker
from workflows.queue import holds
from workflows.worker import attempt
from workflows.worker import backend as backends
from workflows.worker.backend import Backend
from workflows.worker.slots import Slots


class Rig:
    """A worker's slots in this process, with a scripted ComfyUI, and a user."""

    def __init__(self, comfyui: ScriptedComfyUI) -> None:
        self.comfyui = comfyui
        self.api = Api.of(make_user("alice"))
        self.backend = Backend(name="gpu", url=comfyui.url, headers={})
        self.backend.connect()
        assert self.backend.session.wait_connected(20)
        self.backend.refresh()
        Worker.objects.create(name="gpu", host="here", pid=1, url=comfyui.url, reachable=True)
        self.slots = Slots(self.backend)
        self.slots.claiming = True

    def submit(self, workflow: graphs.Graph, **more: Any) -> str:
        response = self.api.post("/workflows/execute", {"workflow": workflow, **more})
        assert response.status_code == 200, response.content
        return response.json()["execution_id"]

    def run(self, workflow: graphs.Graph) -> str:
        execution_id = self.submit(workflow)
        self.slots.serve_in_thread()
        return execution_id

    def run_at_gate(self) -> str:
        """An execution that is recorded as running, and runs until `comfyui.gate` is set."""
        execution_id = self.run(gated())
        wait_for(lambda: self.status(execution_id) == "running", what="it to run")
        return execution_id

    def reconnect(self, *, since: int) -> None:
        """What the watch does once ComfyUI was connected anew, after the connection number `since`."""
        wait_for(lambda: self.backend.session.generation > since, what="a new connection to ComfyUI")
        self.backend.refresh()
        self.slots.serve_in_thread()

    def cancel(self, execution_id: Any) -> int:
        """As the API does it, with the notification that maintenance hears."""
        status = self.api.post(f"/workflows/{execution_id}/cancel").status_code
        self.slots.ended(str(execution_id))
        return status

    def status(self, execution_id: str) -> str:
        return Execution.objects.get(id=execution_id).status

    def ends(self, execution_id: str, status: str) -> dict[str, Any]:
        wait_for(
            lambda: self.status(execution_id) not in ("pending", "running"),
            seconds=40,
            what=f"the end of {execution_id}",
        )
        body = self.api.get(f"/workflows/{execution_id}").json()
        assert body["status"] == status, body
        return body

    def silence(self, *, seconds: float = 1000.0) -> None:
        """As if no thread that holds a claim had given a sign of life for so long."""
        with self.slots._lock:
            for held in self.slots._held.values():
                held._alive_at -= seconds
                if held.runner is not None:
                    held.runner.alive_at -= seconds

    def is_clear(self) -> None:
        """ComfyUI has nothing to do, and no slot is taken."""
        assert self.slots.wait_empty(timeout=40)
        assert self.comfyui.running is None
        assert self.comfyui.pending == []

    def close(self) -> None:
        self.slots.stop(drain_seconds=0)
        self.slots.wait_empty(timeout=10)
        self.backend.close()


def hold_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes back after a fault of the system may be taken again at once."""
    monkeypatch.setattr(attempt, "FIRST_HOLD", 0.01)
    monkeypatch.setattr(attempt, "LONGEST_HOLD", 0.01)
    monkeypatch.setattr(backends, "FIRST_PAUSE", 0.1)


def came_back(execution_id: str) -> Execution | None:
    return Execution.objects.filter(id=execution_id, status="pending", held="backoff").first()


def serve_again(rig: Rig) -> None:
    """Once nothing is held after a fault any more."""
    held = Execution.objects.filter(status="pending", held="backoff")

    def lifted() -> bool:
        holds.lift_backoff()
        return not held.exists()

    wait_for(lifted, what="the end of the backoff")
    rig.slots.serve_in_thread()


def sleep(seconds: float) -> graphs.Graph:
    return {
        "1": {"class_type": "Sleep", "inputs": {"seconds": seconds}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }


def gated() -> graphs.Graph:
    """Runs until the test calls `rig.comfyui.gate.set()`."""
    return {
        "1": {"class_type": "Gate", "inputs": {}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }


def before(monkeypatch, owner: Any, name: str, act: Any) -> None:
    """`act` with the call's arguments, once, right before `owner.name` is called."""
    original = getattr(owner, name)
    done: list[bool] = []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not done:
            done.append(True)
            act(*args, **kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


def after(monkeypatch, owner: Any, name: str, act: Any) -> None:
    original = getattr(owner, name)
    done: list[bool] = []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if not done:
            done.append(True)
            act(*args, **kwargs)
        return result

    monkeypatch.setattr(owner, name, wrapped)


def ends(monkeypatch: Any) -> list[dict[str, Any]]:
    """The messages about ends that are published from now on, as they are received."""
    told: list[dict[str, Any]] = []
    publish = notify._publish

    def listen(message: dict[str, Any]) -> None:
        if message.get("ended"):
            told.append(json.loads(json.dumps(message, default=str)))
        publish(message)

    monkeypatch.setattr(notify, "_publish", listen)
    return told
