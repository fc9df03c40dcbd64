from __future__ import annotations

import asyncio
import gc
import gzip
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIRequest

from comfyserve.api.gate.routes import FORM
from comfyserve.asgi import application
from tests.factories import Api, assert_error

LIMIT = 1000


@pytest.fixture(autouse=True)
def _limit(settings) -> None:
    settings.MAX_BODY_BYTES = LIMIT
    settings.MAX_UPLOAD_BYTES = 3 * LIMIT


class Asked:
    """One request to the whole ASGI application, as a server would give it."""

    def __init__(
        self,
        pieces: Iterable[bytes],
        *,
        path: str = "/auth/login",
        length: int | None = None,
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
        stalls: bool = False,
    ) -> None:
        self.stalls = stalls  # before the last piece
        self.pieces = list(pieces)
        self.read = 0
        self.sent: list[dict[str, Any]] = []
        given = {"Host": "x", "Content-Type": "application/json", **(headers or {})}
        if length is None:
            given["Transfer-Encoding"] = "chunked"
        else:
            given["Content-Length"] = str(length)
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        asyncio.run(application(self.scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self.read >= len(self.pieces):
            await asyncio.Event().wait()
        if self.stalls and self.read == len(self.pieces) - 1:
            await asyncio.Event().wait()
        self.read += 1
        more = self.read < len(self.pieces)
        return {"type": "http.request", "body": self.pieces[self.read - 1], "more_body": more}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


class TestLimits:
    def test_a_body_that_is_too_long_is_413(self, stranger: Api) -> None:
        response = stranger.post("/auth/login", data=b"x" * (LIMIT + 1), content_type="application/json")
        assert_error(response, 413, "payload_too_large")
        assert response["Connection"] == "close"

    def test_a_body_that_just_fits_is_read(self, stranger: Api) -> None:
        text = b'{"email": "%s"}'
        body = text % (b"x" * (LIMIT - len(text) + 2))
        response = stranger.post("/auth/login", data=body, content_type="application/json")
        assert_error(response, 400, "validation_error")

    @pytest.mark.parametrize("length", ["9" * 100, "-1", "x", "1e3", ""])
    def test_an_invalid_content_length_does_not_crash(self, stranger: Api, length: str) -> None:
        response = stranger.post(
            "/auth/login", data=b"{}", content_type="application/json", CONTENT_LENGTH=length
        )
        assert response.status_code in (400, 413)

    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP", "gzip, identity"])
    def test_compressed_bodies_are_refused(self, stranger: Api, encoding: str) -> None:
        response = stranger.post(
            "/auth/login",
            data=gzip.compress(b"{}"),
            content_type="application/json",
            headers={"Content-Encoding": encoding},
        )
        assert_error(response, 415, "unsupported_media_type")


@pytest.mark.django_db(transaction=True)
class TestOnTheServer:
    def test_a_chunked_body_is_read(self) -> None:
        asked = Asked([b'{"ema', b'il": "a', b'@example.com"}'])
        assert asked.status == 400
        assert b"password" in asked.body
        assert b"email" not in asked.body.replace(b"e-mail", b"")

    def test_a_chunked_body_that_is_too_long_is_413_and_not_read_to_its_end(self) -> None:
        asked = Asked([b"x" * 400] * 100)
        assert asked.status == 413
        assert b"payload_too_large" in asked.body
        assert asked.read == 3

    def test_a_declared_length_that_is_too_long_is_413_and_nothing_is_read(self) -> None:
        asked = Asked([b"x" * 400] * 100, length=40_000)
        assert asked.status == 413
        assert asked.read == 0

    def test_an_upload_has_its_own_limit(self) -> None:
        asked = Asked([b"x" * 400], path="/files/upload", length=1_000_000)
        assert asked.status == 413
        assert f"more than {3 * LIMIT + FORM} bytes".encode() in asked.body

    @pytest.mark.django_db(transaction=True)
    def test_an_upload_of_a_stranger_is_refused_unread(self) -> None:
        asked = Asked([b"x" * 400] * 100, path="/files/upload")
        assert asked.status == 401
        assert asked.read == 0

    def test_a_chunked_upload_is_cut_off_at_its_limit(self, as_alice: Api) -> None:
        asked = self._upload(as_alice, pieces=100)
        assert asked.status == 413
        assert f"more than {3 * LIMIT} bytes".encode() in asked.body
        assert asked.read < 10

    def test_an_upload_may_be_longer_than_other_bodies(self, as_alice: Api) -> None:
        asked = self._upload(as_alice, pieces=3 * LIMIT // 400)
        assert asked.status == 200, asked.body

    def _upload(self, person: Api, *, pieces: int) -> Asked:
        """A chunked upload of so many pieces of 400 bytes."""
        before = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        headers = {**person.headers, "Content-Type": "multipart/form-data; boundary=b"}
        body = [before, *[b"x" * 400] * pieces, b"\r\n--b--\r\n"]
        return Asked(body, path="/files/upload", headers=headers)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("method", "path"), [("POST", "/auth/login"), ("GET", "/health/liveness")])
def test_an_answered_request_and_its_body_are_freed_without_the_garbage_collector(method, path) -> None:
    gc.collect()
    before = _requests_in_memory()
    gc.disable()
    try:
        asked = Asked([b"{}"], length=2, method=method, path=path)
        assert asked.status == (400 if method == "POST" else 200)
        assert _requests_in_memory() == before
    finally:
        gc.enable()


def _requests_in_memory() -> int:
    return sum(type(each) is ASGIRequest for each in gc.get_objects())
