"""Clients of live streams that read nothing, over real sockets: disconnected, without leaks."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import psutil
import pytest

from script.harness import graphs
from script.harness.sse import follow
from script.harness.waiting import wait_for

LINES, LINE_BYTES = 300, 64_000  # far more than the system's own buffers take


@pytest.fixture
def impatient(bare_stack):
    web = bare_stack.start_web(env={"SLOW_READER_SECONDS": "3", "STREAMS_PER_USER": "1"})
    web.log.write_text("")  # what other tests made it log
    yield bare_stack
    bare_stack.stop_web()


def reads_nothing(person, execution_id: str) -> socket.socket:
    address = urlsplit(person.url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(30)
    client.connect((address.hostname, address.port))
    client.sendall(
        f"GET /workflows/{execution_id}/events HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: {person.session.headers['Authorization']}\r\n\r\n".encode()
    )
    assert client.recv(12) == b"HTTP/1.1 200"
    return client


def is_held(stack, client: socket.socket) -> bool:
    """Whether the web process still has its end of the connection."""
    port = client.getsockname()[1]
    lines = psutil.Process(stack.web.pid).net_connections(kind="tcp")
    return any(line.raddr and line.raddr.port == port for line in lines)


@pytest.mark.parametrize("status", ["pending", "cancelled"])
def test_one_that_reads_nothing_is_cut_off_though_it_holds_the_line(impatient, status):
    """Also when all of it was written already: a stream of what has ended is, at once."""
    person = impatient.person()
    execution_id = person.execute(graphs.colour(1))
    impatient.sql(
        "INSERT INTO workflows_logline (execution_id, level, message, kind)"
        " SELECT %s::uuid, 'INFO', repeat('x', %s), 'log' FROM generate_series(1, %s)",
        execution_id, LINE_BYTES, LINES,
    )  # fmt: skip
    if status == "cancelled":
        person.post(f"/workflows/{execution_id}/cancel")
    with reads_nothing(person, execution_id) as client:
        assert is_held(impatient, client)
        wait_for(lambda: not is_held(impatient, client), seconds=40, what="the end of the slow one")
        with follow(person) as stream:  # its place is free
            assert stream.status == 200
    log = impatient.web.log.read_text()
    assert "Traceback" not in log
    assert "without completing response" not in log
