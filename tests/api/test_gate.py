"""Resources that an anonymous client, or one with an account, can hold without affecting others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from django.http import HttpResponse

from comfyserve.api.errors import Unavailable
from comfyserve.api.gate import answers, application, protocol, routes
from script.harness import graphs
from script.harness.waiting import wait_for
from tests.api.test_bodies import Asked
from tests.factories import Api

MANY = 40  # more than request threads
HONEST_SECONDS = 10.0  # for five answers, on a busy machine; what is held has 15 s


@pytest.fixture
def sockets(stack) -> Iterator[contextlib.ExitStack]:
    stack.start_web()
    with contextlib.ExitStack() as opened:
        yield opened


def connect(stack, opened: contextlib.ExitStack, sent: bytes) -> socket.socket:
    address = urlsplit(stack.url)
    client = opened.enter_context(socket.socket())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(20)
    client.connect((address.hostname, address.port))
    client.sendall(sent)
    return client


def assert_honest_is_served(person) -> None:
    began = time.monotonic()
    for _ in range(5):
        assert person.get("/auth/me").status_code == 200
    assert time.monotonic() - began < HONEST_SECONDS


class TestSlowClients:
    def test_bodies_that_never_end_hold_no_thread(self, stack, sockets):
        person = stack.person()
        for _ in range(MANY):
            connect(
                stack, sockets,
                b"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{",
            )  # fmt: skip
        assert_honest_is_served(person)

    def test_readers_that_read_nothing_hold_no_thread(self, stack, sockets):
        person = stack.person()
        path = "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js"
        for _ in range(MANY):
            connect(stack, sockets, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert_honest_is_served(person)

    def test_submissions_that_wait_for_their_body_hold_nothing(self, stack, sockets):
        person = stack.person()
        before = psutil.Process(stack.web.pid).memory_info().rss
        head = (
            "POST /workflows/execute HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=60\r\n"
            f"Authorization: {person.session.headers['Authorization']}\r\n"
            "Content-Type: application/json\r\nContent-Length: 10000000\r\n\r\n"
        )
        for _ in range(10):
            connect(stack, sockets, head.encode() + b" " * 3_000_000)
        assert_honest_is_served(person)
        assert psutil.Process(stack.web.pid).memory_info().rss - before < 30_000_000

    def test_large_answers_that_are_not_read_take_no_memory(self, stack, sockets):
        """20 MiB each, in base64 and as JSON: 60 requests of one user took more than 1 GB."""
        person = stack.person()
        file = {"file": ("large.bin", os.urandom(7_000_000))}
        uri = f"comfyserve://files/{person.post('/files/upload', files=file).json()['file_id']}"
        body = json.dumps(
            {"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": uri}}
        ).encode()
        head = (
            f"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            f"Authorization: {person.session.headers['Authorization']}\r\n"
            "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n\r\n"
        ).encode()

        def ask() -> int:
            """Bytes that the web process has taken when it has begun to answer."""
            assert connect(stack, sockets, head + body).recv(12) == b"HTTP/1.1 200"
            return psutil.Process(stack.web.pid).memory_info().rss

        first = max(ask() for _ in range(5))  # what the allocator keeps
        assert max(ask() for _ in range(30)) - first < 150_000_000  # it was 270
        assert_honest_is_served(person)

    def test_a_large_answer_that_is_read_too_slowly_is_cut_off(self, monkeypatch, caplog):
        monkeypatch.setattr(answers, "READING_SECONDS", 0.2)
        monkeypatch.setattr(answers, "READING_RATE", 10**9)  # what the system's buffers take is soon sent
        size = 50_000_000  # far more than the system's buffers take
        ended = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await answers.send_whole(HttpResponse(b"x" * size), send)
            ended.set()

        async def read_late() -> int:
            async with served(app) as address:
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                await asyncio.wait_for(ended.wait(), 20)
                received = 0
                with contextlib.suppress(ConnectionError):
                    while piece := await asyncio.wait_for(reader.read(1_000_000), 20):
                        received += len(piece)
                writer.close()
                return received

        assert 0 < asyncio.run(read_late()) < size
        assert "without completing" not in caplog.text

    @pytest.mark.django_db(transaction=True)
    def test_a_body_that_comes_too_slowly_is_408(self, monkeypatch):
        monkeypatch.setattr(routes.Route, "deadline", lambda *_: 0.05)
        asked = Asked([b"x" * 10, b"", b"x"], length=100, stalls=True)
        assert asked.status == 408
        assert b"request_timeout" in asked.body

    def test_headers_that_never_end_are_cut_off(self, monkeypatch):
        monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.2)
        assert answer_to(b"GET / HTTP/1.1\r\nHost: x\r\n") == b""

    def test_endless_headers_are_refused(self):
        assert answer_to(b"GET / HTTP/1.1\r\n" + b"X: %s\r\n" % (b"x" * 100_000)).startswith(b"HTTP/1.1 431")


CHUNKED = (
    b"Host: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
)


class TestTrailers:
    """Headers after a chunked body."""

    def test_they_are_no_headers(self, stack, sockets):
        """Otherwise they would override what a proxy has set or removed."""
        token = stack.person().session.headers["Authorization"]
        trailer = f"0\r\nAuthorization: {token}\r\n\r\n".encode()
        client = connect(stack, sockets, b"GET /auth/me HTTP/1.1\r\n" + CHUNKED + trailer)
        assert client.recv(4096).startswith(b"HTTP/1.1 401")

    @pytest.mark.parametrize(
        ("start", "endless"), [(b"0\r\n", b"X: y\r\n"), (b"0\r\nX: ", b"y" * 9), (b"2;", b"y" * 9)]
    )
    def test_endless_ones_are_refused(self, stack, sockets, start, endless):
        client = connect(stack, sockets, b"POST /auth/login HTTP/1.1\r\n" + CHUNKED + start)
        with contextlib.suppress(ConnectionError):  # the server closes it; the answer is still received
            client.sendall(endless * 200_000)
        assert client.recv(4096).startswith(b"HTTP/1.1 431")

    def test_a_body_of_many_chunks_is_read(self, stack, sockets):
        padding = b"1\r\n \r\n" * 30_000
        client = connect(stack, sockets, b"POST /auth/login HTTP/1.1\r\n" + CHUNKED + padding + b"0\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 400")


def answer_to(sent: bytes) -> bytes:
    """What uvicorn with our protocol answers until it closes the connection."""
    return answers_to(sent)[0]


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[tuple[str, int]]:
    """The address of uvicorn with our protocol and this application."""
    from uvicorn import Config
    from uvicorn.server import ServerState

    config, loop = Config(app, lifespan="off", log_config=None), asyncio.get_running_loop()
    made = lambda: protocol.Protocol(config, ServerState(), {}, loop)  # noqa: E731
    async with await loop.create_server(made, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()


def answers_to(*sent: bytes) -> list[bytes]:
    """The same on several connections, open at the same time, each closed by us if it answers nothing."""

    async def app(scope: object, receive: object, send: object) -> None:
        raise AssertionError("never asked")

    async def talk() -> list[bytes]:
        async with served(app) as address:
            opened = []
            for each in sent:
                opened.append(await asyncio.open_connection(*address))
                opened[-1][1].write(each)
            # The last one first: those before it are open meanwhile.
            received = [await asyncio.wait_for(reader.read(), 10) for reader, _ in reversed(opened)]
            for _, writer in opened:
                writer.close()
        return received[::-1]

    return asyncio.run(talk())


@pytest.mark.django_db(transaction=True)
class TestGreedyClients:
    @pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "GET"])
    def test_a_body_to_a_method_that_takes_none_is_refused_unread(self, method):
        asked = Asked([b"x" * 400] * 100, path="/files/upload", length=200_000_000, method=method)
        assert asked.status == 413
        assert asked.read == 0

    def test_a_large_body_wants_a_login_before_it_is_read(self):
        asked = Asked([b"x"], path="/workflows/execute", length=1_000_000)
        assert asked.status == 401
        assert asked.read == 0

    def test_a_body_that_grows_large_wants_a_login(self):
        asked = Asked([b" " * 30_000] * 100, path="/workflows/execute")
        assert asked.status == 401
        assert asked.read == 3

    def test_a_large_body_of_a_user_is_read(self, as_alice: Api):
        body = [b'{"workflow": {"nodes": 1, "x": "', *[b"y" * 50_000] * 10, b'"}}']
        asked = Asked(body, path="/workflows/execute", headers=as_alice.headers)
        assert asked.status == 400
        assert b"validation_error" in asked.body

    @pytest.mark.parametrize("limit", ["MAX_LARGE_BODIES", "MAX_PER_USER"])
    @pytest.mark.parametrize("length", [500_000, None])
    def test_too_many_large_bodies_are_503_and_not_413(self, as_alice: Api, monkeypatch, limit, length):
        monkeypatch.setattr(application, limit, 0)
        asked = Asked(
            [b" " * 100_000] * 5, path="/workflows/execute", length=length, headers=as_alice.headers
        )
        assert asked.status == 503
        assert (b"retry-after", b"5") in asked.sent[0]["headers"]
        assert b"service_unavailable" in asked.body

    @pytest.mark.parametrize("path", ["/auth/login", "/auth/me", "/nowhere", "/workflows/events"])
    def test_other_bodies_are_limited_to_64_kib(self, path):
        asked = Asked([b"x"], path=path, length=70_000)
        assert asked.status in (401, 413)
        assert asked.read == 0

    def test_a_header_with_an_underscore_does_not_override_the_proxys(self, settings, caplog, monkeypatch):
        settings.TRUSTED_PROXY_HOPS = 1
        seen = []

        def register(**given: Any) -> None:
            seen.append(given["address"])
            raise Unavailable("enough seen")

        monkeypatch.setattr("accounts.registration.register", register)
        account = b'{"email": "a@example.com", "username": "a", "password": "correct horse"}'
        Asked(
            [account],
            path="/auth/register",
            length=len(account),
            headers={"X-Forwarded-For": "8.8.8.8", "X_Forwarded_For": "9.9.9.9"},
        )
        assert seen == ["8.8.8.8"]


def test_large_bodies_of_one_account_leave_room_for_those_of_others(stack, sockets):
    greedy, honest = stack.person("greedy"), stack.person("honest")
    head = (
        "POST /workflows/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Authorization: {greedy.session.headers['Authorization']}\r\nContent-Length: 1000000\r\n\r\n "
    )
    clients = [connect(stack, sockets, head.encode()) for _ in range(64)]
    too_many = 64 - application.MAX_PER_USER

    def answered() -> list[socket.socket]:
        readable, _, _ = select.select(clients, [], [], 0.1)
        return readable if len(readable) >= too_many else []

    refused = wait_for(answered, seconds=20)
    assert len(refused) == too_many
    assert all(client.recv(4096).startswith(b"HTTP/1.1 503") for client in refused)
    graph = graphs.colour(1) | {
        "3": {"class_type": "EmptyImage", "inputs": {}, "_meta": {"x": "y" * 100_000}}
    }
    answer = honest.post("/workflows/execute", {"workflow": graph})
    assert answer.status_code in (200, 400), answer.text  # read, whatever it thinks of it


def test_one_client_has_so_many_connections_and_no_more(settings, monkeypatch):
    settings.CONNECTIONS_PER_CLIENT = 1
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 3.0)
    monkeypatch.setattr(protocol, "_client", lambda _: "9.9.9.9")
    first, second = answers_to(b"GET / HTTP/1.1\r\n", b"")
    assert (first, second.partition(b"\r\n")[0]) == (b"", b"HTTP/1.1 503 Service Unavailable")
    assert not protocol._open  # what has closed does not count


def test_a_disconnect_is_reported_to_the_request_in_progress(caplog):
    """Although others wait behind it on the same connection: nothing is written to a closed one."""
    from uvicorn import Config
    from uvicorn.server import ServerState

    async def scene() -> list[str]:
        heard: list[str] = []
        asked, ended = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            asked.set()
            while (message := await receive())["type"] == "http.request":
                pass
            heard.append(message["type"])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            ended.set()

        config, loop = Config(app, lifespan="off", log_config=None), asyncio.get_running_loop()
        made = lambda: protocol.Protocol(config, ServerState(), {}, loop)  # noqa: E731
        async with await loop.create_server(made, "127.0.0.1", 0) as server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
            await asyncio.wait_for(asked.wait(), 10)
            writer.transport.abort()
            await asyncio.wait_for(ended.wait(), 10)
        return heard

    assert asyncio.run(scene()) == ["http.disconnect"]
    assert "Exception in ASGI application" not in caplog.text
