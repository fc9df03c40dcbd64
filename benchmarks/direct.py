"""A minimal websocket client of ComfyUI itself: the baseline of other measurements."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import requests
import websocket

from script.harness.graphs import Graph

PATIENCE = 300.0  # seconds for one workflow


class Direct:
    def __init__(self, url: str) -> None:
        self._url = url
        self._http = requests.Session()
        self._id = uuid.uuid4().hex
        address = f"{url.replace('http', 'ws', 1)}/ws?clientId={self._id}"
        self._socket = websocket.create_connection(address, timeout=PATIENCE, suppress_origin=True)

    def submit(self, graph: Graph) -> str:
        answer = self._http.post(f"{self._url}/prompt", json={"prompt": graph, "client_id": self._id})
        answer.raise_for_status()
        return str(answer.json()["prompt_id"])

    def wait(self, prompt_id: str) -> list[dict[str, str]]:
        """The images of a prompt once it has succeeded. Call it in the order of submission."""
        images: list[dict[str, str]] = []
        while True:
            frame = self._socket.recv()
            if isinstance(frame, bytes):
                continue
            message: dict[str, Any] = json.loads(frame)
            if message["data"].get("prompt_id") != prompt_id:
                continue
            match message["type"]:
                case "executed":
                    images += message["data"]["output"].get("images", [])
                case "execution_error":
                    raise RuntimeError(frame)
                case "execution_success":
                    return images

    def running(self) -> list[str]:
        queue = self._http.get(f"{self._url}/queue").json()
        return [str(item[1]) for item in queue["queue_running"]]

    def run(self, graph: Graph) -> float:
        """Run it; the seconds it took."""
        began = time.perf_counter()
        self.wait(self.submit(graph))
        return time.perf_counter() - began

    def picture(self, graph: Graph) -> bytes:
        """Run it and fetch its one image."""
        [image] = self.wait(self.submit(graph))
        return self._http.get(f"{self._url}/view", params=image).content
