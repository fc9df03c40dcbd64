"""A webhook receiver with scripted responses: an HTTP server on 127.0.0.77."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from script.harness.waiting import wait_for

ADDRESS = "127.0.0.77"  # the address in the stack's OUTBOUND_ALLOW


@dataclass(frozen=True)
class Call:
    path: str
    headers: dict[str, str]
    body: bytes
    at: float  # of its arrival, monotonic seconds

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def event(self) -> str:
        return str(self.json["event"])


Reply = Callable[[BaseHTTPRequestHandler], None]


def say(status: int, text: str = "", **headers: str) -> Reply:
    """A response. Header names are written with underscores."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text.encode())

    return reply


def close(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection without a response."""
    handler.close_connection = True


class Receiver:
    """`calls` in order of arrival. `script` has the next responses; when it is empty, 200."""

    def __init__(self, *script: Reply) -> None:
        self.calls: list[Call] = []
        self.script = list(script)
        self.release = threading.Event()  # releases hanging responses
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.calls.append(Call(self.path, dict(self.headers), body, time.monotonic()))
                reply = receiver.script.pop(0) if receiver.script else say(200, "thank you")
                try:
                    reply(self)
                except OSError:
                    pass  # the sender has disconnected

            do_PUT = do_POST  # noqa: N815  (as the library calls it)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((ADDRESS, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{ADDRESS}:{self._server.server_port}/hook"

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        self.release.wait(30)
        close(handler)

    def events(self) -> list[str]:
        return [call.event for call in self.calls]

    def wait(self, number: int = 1, *, seconds: float = 40) -> list[Call]:
        """Wait for this many calls."""
        wait_for(lambda: len(self.calls) >= number, seconds=seconds, what=f"{number} calls: {self.events()}")
        return list(self.calls)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
