"""A stopped worker signs off cleanly; only a crashed one causes a warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from script.harness.waiting import wait_for
from script.local import ports
from tests.local import commands

pytestmark = pytest.mark.timeout(600)


def test_after_a_demo_and_two_starts_of_serve_all_is_healthy_and_there_is_one_worker(folder: Path) -> None:
    data = folder / "var"
    done = commands.run("demo", "--seed", "7", data=data, seconds=360)
    assert done.returncode == 0, done.stdout + done.stderr
    names = {services_after_start(data), services_after_start(data)}
    assert len(names) == 1
    assert commands.processes_of(data) == []


def services_after_start(data: Path) -> str:
    """Start script/serve until all is healthy, and stop it; the services that its health names."""
    port = ports.free_port()
    served = commands.prepared("serve", data, PORT=str(port), FLOWER_PORT=str(ports.free_port()))

    def health() -> dict[str, Any] | None:
        try:
            answer = requests.get(f"http://127.0.0.1:{port}/health/detailed", timeout=10)
        except requests.RequestException:
            return None
        found: dict[str, Any] = answer.json()
        return found if found["status"] == "healthy" else None

    try:
        served.start()
        services = wait_for(health, seconds=120, what="a healthy service")["services"]
    finally:
        served.stop(seconds=60)
    return str(sorted(service["name"] for service in services))
