"""A source of downloads that drops the connection, stalls, or sends something else."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Source:
    """Serves `content` at `url`; the first `cuts` answers break off half-way."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.cuts = 0
        self.etag: str | None = '"v1"'
        self.ranges = True
        self.answers: list[tuple[int, dict[str, str], bytes]] = []  # given instead, in this order
        self.paused: threading.Event | None = None  # half-way it waits for this
        self.half_sent = threading.Event()
        self.asked: list[dict[str, str]] = []  # headers of each request
        self.sent = 0
        self.url = ""

    def handle(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        self.asked.append(dict(handler.headers.items()))
        if self.answers:
            status, headers, body = self.answers.pop(0)
            _send(handler, status, {"Content-Length": str(len(body)), **headers})
            handler.wfile.write(body)
            return
        start = self._start(handler)
        body = self.content[start:]
        headers = {"Content-Length": str(len(body)), "Content-Type": "application/octet-stream"}
        if self.etag:
            headers["ETag"] = self.etag
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
        _send(handler, 206 if start else 200, headers)
        self._send_body(handler, body)

    def _start(self, handler: http.server.BaseHTTPRequestHandler) -> int:
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        fits = handler.headers.get("If-Range") in (None, self.etag)
        return int(asked.group(1)) if asked and fits and self.ranges else 0

    def _send_body(self, handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        half = len(body) // 2
        self._write(handler, body[:half])
        self.half_sent.set()
        if self.cuts:
            self.cuts -= 1
            handler.close_connection = True
            return
        if self.paused is not None:
            self.paused.wait(120)
        self._write(handler, body[half:])

    def _write(self, handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        self.sent += len(body)  # before, since the client may be done with it before this thread goes on
        handler.wfile.write(body)
        handler.wfile.flush()


def _send(handler: http.server.BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()


@contextmanager
def serving(source: Source, path: str = "/model") -> Iterator[Source]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        log_message: Callable[..., Any] = lambda *_: None

        def do_GET(self) -> None:
            try:
                source.handle(self)
            except OSError:
                self.close_connection = True  # the other side went away

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=[0.05], daemon=True)
    thread.start()
    source.url = f"http://127.0.0.1:{server.server_address[1]}{path}"
    try:
        yield source
    finally:
        if source.paused is not None:
            source.paused.set()
        server.shutdown()
        server.server_close()
        thread.join()
