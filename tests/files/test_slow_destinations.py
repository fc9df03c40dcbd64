"""A user's S3 server that never answers holds no more than its share of the request threads."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from script.harness.receiver import ADDRESS
from script.harness.stack import Person, Stack
from script.harness.waiting import wait_for

AT_ONCE = 40  # more than the server has threads


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Connections are made, and nothing ever comes."""
    with socket.create_server((ADDRESS, 0), backlog=AT_ONCE) as server:
        yield server


def save(person: Person, server: socket.socket, name: str) -> int:
    body = {
        "name": name,
        "endpoint": f"http://{ADDRESS}:{server.getsockname()[1]}",
        "bucket": "bucket",
        "access_key": "key",
        "secret_key": "secret",
    }
    return person.post("/destinations/", body).status_code


def test_others_are_answered_while_destinations_are_tested(stack: Stack, silent: socket.socket) -> None:
    attacker, other = stack.person("slow"), stack.person("other")
    statuses: list[int] = []
    asking = [
        threading.Thread(target=lambda n=n: statuses.append(save(attacker, silent, f"slow-{n}")))
        for n in range(AT_ONCE)
    ]
    for thread in asking:
        thread.start()
    silent.settimeout(60)
    held, _ = silent.accept()  # the first is being tested
    with held:
        began = time.monotonic()
        assert other.get("/auth/me").status_code == 200
        assert time.monotonic() - began < 8  # a test of a destination takes ten
        wait_for(lambda: statuses.count(503) >= AT_ONCE - 10, seconds=60, what="the others to be refused")
        silent.close()  # the rest is refused at once
    for thread in asking:
        thread.join(60)
    assert set(statuses) == {400, 503}
