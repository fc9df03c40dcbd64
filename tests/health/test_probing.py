"""Checks that hang, on real sockets that never respond."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from health.probing import NoAnswer, Probe, Shared


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


@pytest.fixture
def hang(silent):
    """A check that waits for the silent server until the end of the test."""
    connections = []

    def check() -> bytes:
        connection = socket.create_connection(silent)
        connections.append(connection)
        return connection.recv(1)

    yield check
    for connection in connections:
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def test_the_asker_waits_no_longer_than_the_limit(hang):
    began = time.monotonic()
    with pytest.raises(NoAnswer, match=r"No response within 0\.2 s"):
        Probe("hangs", hang, limit=0.2).ask()
    assert time.monotonic() - began < 5  # the check itself hangs until the end of the test


def test_a_check_that_hangs_is_not_started_again(hang):
    probe = Probe("hangs once", hang, limit=0.05)
    for _ in range(5):
        with pytest.raises(NoAnswer):
            probe.ask()
    assert [thread.name for thread in threading.enumerate()].count("probe hangs once") == 1


def test_one_that_came_back_is_asked_again():
    answers = iter("ab")
    probe = Probe("answers", lambda: next(answers), limit=5)
    assert [probe.ask(), probe.ask()] == ["a", "b"]


def test_errors_of_a_check_are_raised():
    def refuse() -> None:
        raise ConnectionRefusedError("no")

    with pytest.raises(ConnectionRefusedError):
        Probe("refuses", refuse, limit=5).ask()


def test_many_callers_cost_one_query():
    looks = []
    began = threading.Event()

    def look() -> int:
        looks.append(1)
        began.wait(5)
        return len(looks)

    shared = Shared(look, seconds=60)
    with ThreadPoolExecutor(8) as askers:
        answers = [askers.submit(shared.get) for _ in range(8)]
        began.set()
        assert {answer.result() for answer in answers} == {1}
    assert looks == [1]


def test_a_failure_is_shared_too():
    looks = []

    def fail() -> None:
        looks.append(1)
        raise ConnectionRefusedError

    shared = Shared(fail, seconds=60)
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            shared.get()
    assert looks == [1]


def test_it_is_checked_again_after_its_ttl():
    numbers = iter(range(10))
    shared = Shared(lambda: next(numbers), seconds=0)
    assert [shared.get(), shared.get()] == [0, 1]
