"""Latency of an honest client beside slow and greedy ones, and the memory of the web process.

200 connections of an attacker stay open: bodies that never end, readers that read nothing, headers that
trickle, large bodies without a token, and submissions with one that never end. Printed: p50 and p99 of the
honest client without them and beside them, and the resident memory.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of benchmarks/, whose queue.py would hide Python's own

import contextlib  # noqa: E402
import socket  # noqa: E402
import time  # noqa: E402
from urllib.parse import urlsplit  # noqa: E402

import psutil  # noqa: E402

from benchmarks.services import Services, command_line, percentile, print_table, say  # noqa: E402
from script.harness.stack import Person  # noqa: E402

STATIC = "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js"
MEGABYTE = 1024 * 1024


def attacks(person: Person) -> list[bytes]:
    """What is sent on each connection in turn; no request is ever complete."""
    token = str(person.session.headers["Authorization"])
    host = "Host: localhost\r\nContent-Type: application/json\r\n"
    large = f"{host}Content-Length: 10000000\r\n"
    return [
        f"POST /auth/login HTTP/1.1\r\n{host}Content-Length: 100\r\n\r\n{{".encode(),
        f"GET {STATIC} HTTP/1.1\r\n{host}\r\n".encode(),
        f"GET / HTTP/1.1\r\n{host}X: ".encode(),
        f"POST /workflows/execute HTTP/1.1\r\n{large}\r\n".encode() + b"[],[" * 100_000,
        f"POST /workflows/execute HTTP/1.1\r\nPrefer: wait=60\r\nAuthorization: {token}\r\n{large}\r\n".encode()
        + b" " * 5_000_000,
    ]


def opened(url: str, sent: bytes) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(5)
    address = urlsplit(url)
    client.connect((str(address.hostname), address.port or 80))
    with contextlib.suppress(OSError):  # rejected while we send, as expected
        client.sendall(sent)
    return client


def honest(person: Person, requests: int) -> list[float]:
    """Milliseconds of each request."""
    found = []
    for _ in range(requests):
        began = time.monotonic()
        person.get("/workflows/").raise_for_status()
        found.append((time.monotonic() - began) * 1000)
    return found


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--requests", type=int, default=300)
    options = parser.parse_args()
    with Services(durable=False) as services, contextlib.ExitStack() as connections:
        stack = services.start_stack()
        person, attacker = stack.person(), stack.person()
        assert stack.web is not None
        process = psutil.Process(stack.web.pid)
        honest(person, 20)  # warm
        rows = []
        for what in ("alone", f"beside {options.connections}"):
            if what != "alone":
                say("opening the attacker's connections")
                kinds = attacks(attacker)
                for number in range(options.connections):
                    sent = kinds[number % len(kinds)]
                    connections.enter_context(opened(stack.url, sent))
            times = honest(person, options.requests)
            memory = process.memory_info().rss / MEGABYTE
            rows.append((what, percentile(times, 0.5), percentile(times, 0.99), memory))
        print_table(("honest client", "p50 ms", "p99 ms", "web MB"), rows)


if __name__ == "__main__":
    main()
