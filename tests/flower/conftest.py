from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from script.harness.stack import Stack
from script.harness.waiting import wait_for
from script.local import ports
from script.local.paths import ROOT
from script.local.processes import Process

AUTH = ("operator", "a password of Flower")


class FlowerServer:
    """`script/run flower` beside the stack."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.port = ports.free_port()
        self.url = f"http://127.0.0.1:{self.port}/flower"
        self.redis_url = stack.env["REDIS_URL"]
        self.process = Process(
            "flower",
            [ROOT / "script" / "run", "flower"],
            log=folder / "flower.log",
            env=stack.env
            | {
                "FLOWER_PORT": str(self.port),
                "FLOWER_BASIC_AUTH": ":".join(AUTH),
                "DATA_DIR": str(folder),
            },
            cwd=ROOT,
        )

    def start(self) -> None:
        """Until it answers and receives events: what is published before that never reaches it."""
        with redis.Redis.from_url(self.redis_url) as client:
            newest = max(int(each["id"]) for each in client.client_list())

            def listens() -> bool:
                found = client.client_list(_type="pubsub")
                return any(int(each["id"]) > newest and each["psub"] != "0" for each in found)

            self.process.start()
            self.process.wait_until(lambda: ports.answers("127.0.0.1", self.port), seconds=60)
            self.process.wait_until(listens, seconds=60)

    def get(self, path: str) -> Any:
        answer = requests.get(self.url + path, auth=AUTH, timeout=20)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def metrics(self) -> str:
        """Its own, for Prometheus."""
        answer = requests.get(f"{self.url}/metrics", auth=AUTH, timeout=20)
        assert answer.status_code == 200, answer.text
        return answer.text

    def post(self, path: str) -> requests.Response:
        return requests.post(self.url + path, auth=AUTH, timeout=20)

    def task(self, execution_id: str) -> dict[str, Any]:
        """`{}` as long as Flower has not heard of it."""
        answer = requests.get(f"{self.url}/api/task/info/{execution_id}", auth=AUTH, timeout=20)
        return dict(answer.json()) if answer.status_code == 200 else {}

    def wait_for_state(self, execution_id: str, state: str) -> dict[str, Any]:
        return wait_for(
            lambda: task if (task := self.task(execution_id)).get("state") == state else None,
            seconds=60,
            what=f"state {state} of {execution_id} in Flower",
        )

    def lengths(self) -> dict[str, int]:
        queues = self.get("/api/queues/length")["active_queues"]
        return {queue["name"]: queue["messages"] for queue in queues}

    def workers(self) -> dict[str, dict[str, Any]]:
        """The rows of its first page, by name."""
        return {row["hostname"]: row for row in self.get("/workers?json=1")["data"]}


@pytest.fixture
def flower(bare_stack: Stack, tmp_path: Path) -> Iterator[FlowerServer]:
    server = FlowerServer(bare_stack, tmp_path)
    server.start()
    yield server
    server.process.stop()
