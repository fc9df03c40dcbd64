"""A server whose pages answer in all the ways that the outbound client must bear, and names to look up."""

from __future__ import annotations

import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from comfyserve.outbound import client


class Site:
    """A server on 127.0.0.1 with a few pages; `requests` are the (path, headers) it has seen."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.redirect_to = ""
        self.length = ""  # of odd_length
        self.release = threading.Event()  # ends what hangs
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.requests.append((self.path, dict(self.headers.items())))
                getattr(site, "page_" + self.path.strip("/").partition("?")[0].partition("/")[0])(self)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # clients that go away are part of the tests

        self.server = Server(("127.0.0.1", 0), Handler)
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def stop(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def url(self, page: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/{page}"

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes = b"", **headers: str) -> None:
        handler.send_response(int(headers.pop("status", "200")))
        handler.send_header("Content-Length", headers.pop("length", str(len(body))))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    def page_hello(self, handler: BaseHTTPRequestHandler) -> None:
        self.answer(handler, b"hello", X_Mark="seen")

    def page_missing(self, handler: BaseHTTPRequestHandler) -> None:
        self.answer(handler, b"no", status="404")

    def page_away(self, handler: BaseHTTPRequestHandler) -> None:
        self.answer(handler, status="302", Location=self.redirect_to)

    def page_circle(self, handler: BaseHTTPRequestHandler) -> None:
        self.answer(handler, status="302", Location="/circle")

    def page_odd_length(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        self.answer(handler, b"hello", length=self.length)

    def page_claims(self, handler: BaseHTTPRequestHandler) -> None:
        self.answer(handler, length="1000000000")

    def page_squeezed(self, handler: BaseHTTPRequestHandler) -> None:
        self.answer(handler, b"\x1f\x8b", Content_Encoding="gzip")

    def page_cut(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        self.answer(handler, b"hel", length="5")

    def page_endless(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.send_response(200)
        handler.end_headers()
        while not self.release.is_set():
            handler.wfile.write(b"x" * 1000)

    def page_dripping_headers(self, handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.release.wait(0.02):
            handler.wfile.write(b"x")

    def page_dripping(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "900")
        handler.end_headers()
        while not self.release.wait(0.02):
            handler.wfile.write(b"x")

    def page_silent(self, handler: BaseHTTPRequestHandler) -> None:
        self.release.wait(10)
        handler.close_connection = True


def fetch(url: str, **options: Any) -> bytes:
    with client.get(url, **{"max_bytes": 1000, "timeout": 20, **options}) as answer:
        return b"".join(answer.chunks())


def fake_dns(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """Names with the answers to one look-up after the other; the last one stays. Others are unknown."""
    known: dict[str, list[list[str]]] = {}

    def look_up(host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        try:
            socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
            addresses = [host]
        except OSError:
            if host not in known:
                raise socket.gaierror("unknown") from None
            answers = known[host]
            addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, port),
            )
            for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known
