"""Clients that send or read slowly do not delay others."""

from __future__ import annotations

import os
import socket
import time
from urllib.parse import urlsplit

import pytest

from script.harness.waiting import wait_for
from tests.files.conftest import uploaded
from tests.files.test_upload import BEGUN, raw

EACH = 40  # more than threads for JSON (16) and connections to the database (20) together


@pytest.fixture
def slow(alice):
    """Uploads that have begun, and downloads of which nothing is read."""
    file_id = uploaded(alice, os.urandom(2_900_000))
    address = urlsplit(alice.url)
    request = (
        f"GET /files/{file_id} HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: {alice.session.headers['Authorization']}\r\n\r\n"
    ).encode()
    connections = []
    for _ in range(EACH):
        connections.append(raw(alice, body=BEGUN + b"x" * 200_000, length=1_000_000))
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.settimeout(30)
        reader.connect((address.hostname, address.port))
        reader.sendall(request)
        connections.append(reader)
    for reader in connections[1::2]:
        assert reader.recv(1000).startswith(b"HTTP/1.1 200")
    yield connections
    for connection in connections:
        connection.close()


def test_json_is_served_alongside_them(alice, slow):
    began = time.monotonic()
    for _ in range(20):
        assert alice.get("/workflows/").status_code == 200
        assert alice.get("/files/").status_code == 200
    assert time.monotonic() - began < 20


def test_they_hold_no_connection_to_the_database(alice, site, slow):
    alice.get("/files/")
    busy = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND state <> 'idle'"
    )
    # What the server does by itself now and then is over in a moment.
    wait_for(lambda: not site.stack.sql(busy), seconds=60, what="a moment in which nobody uses the database")


def test_others_are_served_meanwhile(alice, slow):
    content = os.urandom(500_000)
    assert alice.get(f"/files/{uploaded(alice, content)}").content == content
