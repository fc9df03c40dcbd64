"""Slow and greedy connections: each holds resources for as long as possible."""

from __future__ import annotations

import itertools
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psutil

from script.local.attack.callers import Caller
from script.local.attack.honest import Honest
from script.local.attack.report import Report

LOOPBACK = ("127.0.0.1", "localhost")
_sources = itertools.cycle(range(2, 10))
KIND = "slow and greedy connections"
MAX_MEMORY = 400 * 1024 * 1024  # of the web process


class ConnectionAttack:
    """`web_pid`: our own web process, whose memory is then monitored."""

    def __init__(
        self, attacker: Caller, honest: Honest, report: Report, *, web_pid: Callable[[], int | None]
    ) -> None:
        self.attacker, self.honest, self.report = attacker, honest, report
        self._web_pid = web_pid

    def run(self, *, count: int, seconds: float, only: frozenset[str] | None = None) -> None:
        """Each kind alone with `count` connections, for `seconds`; then all of them together."""
        kinds = {name: sent for name, sent in self._kinds().items() if only is None or name in only}
        for name, sent in kinds.items():
            self._hold(name, sent, count=count, seconds=seconds)
        everything = [each for sent in kinds.values() for each in sent]
        self._hold(f"all kinds, {count} connections", everything, count=count, seconds=seconds * 2)

    def _kinds(self) -> dict[str, list[bytes]]:
        """The initial bytes of each kind."""
        return {
            "slow headers": [b"GET /auth/me HTTP/1.1\r\nHost: localhost\r\nX: "],
            "slow bodies": [self._head("POST", "/auth/login", length=100) + b"{"],
            "slow uploads": [self._head("POST", "/files/upload", length=10**9, login=True) + b"--x"],
            "bodies without a login": [self._head("PUT", "/files/upload", length=10**9) + b"x" * 100_000],
            "held submissions": [
                self._head("POST", "/workflows/execute", length=10_000_000, login=True) + b" " * 1_000_000
            ],
            "slow readers": [self._head("GET", "/schema", length=0)],
            "idle": [b""],
            "pipelined": [b"GET /health/liveness HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100],
            "chunked without an end": [
                b"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
                b"Content-Type: application/json\r\n\r\n1\r\n{\r\n"
            ],
            "deep JSON": [self._posted(b"[" * 30_000 + b"]" * 30_000)],
            "wide JSON": [self._posted(b"[" + b"[]," * 20_000 + b"1]")],
            "password hashes": [self._posted(b'{"email": "nobody@example.com", "password": "wrong"}')],
        }

    def _hold(self, name: str, sent: list[bytes], *, count: int, seconds: float) -> None:
        with self.honest.beside(name), self._opened(sent, count) as connections:
            end = time.monotonic() + seconds
            worst = 0
            while time.monotonic() < end:
                worst = max(worst, self._memory())
                for connection in connections:
                    _drip(connection)
                time.sleep(0.5)
        self.report.tried(KIND, count)
        if worst > MAX_MEMORY:
            self.report.leak(KIND, f"{name}: the web process has {worst / 2**20:.0f} MiB")
        if worst:
            self.report.note(f"{f'memory of web, {name}':42} {worst / 2**20:.0f} MiB at most")

    @contextmanager
    def _opened(self, sent: list[bytes], count: int) -> Iterator[list[socket.socket]]:
        """Some may be refused, which is acceptable."""
        connections = []
        try:
            for number in range(count):
                connection = connect(self.attacker)
                if connection is not None:
                    connections.append(connection)
                    _send(connection, sent[number % len(sent)])
            yield connections
        finally:
            for connection in connections:
                connection.close()

    def _memory(self) -> int:
        pid = self._web_pid()
        try:
            return int(psutil.Process(pid).memory_info().rss) if pid else 0
        except psutil.NoSuchProcess:
            self.report.leak(KIND, "the web process has died")
            return 0

    def _head(self, method: str, path: str, *, length: int, login: bool = False) -> bytes:
        kind = "multipart/form-data; boundary=x" if "upload" in path else "application/json"
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}"]
        if length:
            lines.append(f"Content-Length: {length}")
        if login:
            lines.append(f"Authorization: Bearer {self.attacker.token}")
        return "\r\n".join([*lines, "", ""]).encode()

    def _posted(self, body: bytes) -> bytes:
        return self._head("POST", "/auth/login", length=len(body)) + body


def connect(caller: Caller, *, seconds: float = 5.0) -> socket.socket | None:
    """A connection with a small window, like a client that hardly reads; None if it is refused.

    On this machine each comes from one of several addresses, none of which is the honest client's: limits for
    each address are met, and are not enough.
    """
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.settimeout(seconds)
    try:
        if caller.host[0] in LOOPBACK and sys.platform == "linux":
            made.bind((f"127.0.0.{next(_sources)}", 0))
        made.connect(caller.host)
        if urlsplit(caller.url).scheme == "https":
            return ssl.create_default_context().wrap_socket(made, server_hostname=caller.host[0])
    except OSError:
        made.close()
        return None
    return made


def _send(connection: socket.socket, content: bytes) -> None:
    """Send as much as possible without blocking."""
    connection.setblocking(False)
    try:
        while content:
            content = content[connection.send(content) :]
    except OSError:
        pass


def _drip(connection: socket.socket) -> None:
    """Send one more byte, so that the connection is not idle."""
    try:
        connection.send(b" ")
    except OSError:
        pass
