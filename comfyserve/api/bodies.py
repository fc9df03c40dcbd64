"""How large a request's body may be, whatever it says about itself.

`LimitBodies` stands before both halves of the server. The body of an upload goes to the view that reads it,
piece by piece, which counts for itself. Any other body without a length (chunked) is kept aside
until it has ended, or is too long, and then passes with its length: neither WSGI nor Django's multipart
parser reads a body of unknown length. It refuses nothing itself: a body that is too long is cut off, its
length stays in the headers, and `BodyMiddleware` answers 413 in the one shape, with all headers.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import IO, Any

from django.conf import settings

from .errors import ApiError

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

IN_MEMORY = 256 * 1024  # bytes of a chunked body; the rest goes to disk
PIECE = 64 * 1024


FORM = 64 * 1024  # bytes of an upload's form beside its file


def limit_for(path: str) -> int:
    """Bytes that a body to this path may have."""
    return settings.MAX_UPLOAD_BYTES + FORM if is_upload(path) else int(settings.MAX_BODY_BYTES)


def is_upload(path: str) -> bool:
    return path.rstrip("/") == "/files/upload"


class LimitBodies:
    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        chunked = b"chunked" in headers.get(b"transfer-encoding", b"").lower()
        if chunked and not is_upload(scope["path"]):
            await self._chunked(scope, receive, send)
        elif _length(headers) > limit_for(scope["path"]):
            await self.app(scope, _cut_off(receive), send)
        elif is_upload(scope["path"]) and scope["method"] == "POST":
            stream = BodyStream(receive)
            await self.app({**scope, STREAM: stream}, stream.for_django, send)
        else:
            await self.app(scope, receive, send)

    async def _chunked(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = limit_for(scope["path"])
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as kept:
            more, size = True, 0
            while more and size <= limit:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                size += len(message.get("body", b""))
                kept.write(message.get("body", b""))
                more = message.get("more_body", False)
            kept.seek(0)
            known = {**scope, "headers": _with_length(scope["headers"], size)}
            replay = _cut_off(receive) if size > limit else _replay(kept, size, receive)
            await self.app(known, replay, send)


STREAM = "comfyserve.body"  # the key of a BodyStream in the scope
SILENCE = 60.0  # seconds without a byte: the client is gone, whatever TCP thinks


class BodyStream:
    """A body that a view reads as it comes. Django, which would read it whole first, is told it is empty."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._told = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises ClientGone when the rest does not come."""
        more = True
        while more:
            try:
                async with asyncio.timeout(SILENCE):
                    message = await self._receive()
            except TimeoutError:
                raise ClientGone(f"Nothing came for {SILENCE:.0f} seconds") from None
            if message["type"] == "http.disconnect":
                raise ClientGone("The body ended too early")
            more = message.get("more_body", False)
            if piece := message.get("body", b""):
                yield piece

    async def for_django(self) -> dict[str, Any]:
        """What Django gets instead. It waits for the disconnect afterwards; the reader sees that one."""
        if self._told:
            await asyncio.Event().wait()
        self._told = True
        return {"type": "http.request", "body": b"", "more_body": False}


class ClientGone(ApiError):
    """Nobody hears the answer, unless it is only slow."""

    status = 400
    error = "validation_error"


def _length(headers: dict[bytes, bytes]) -> int:
    text = headers.get(b"content-length", b"0")
    return int(text) if text.isdigit() else 0


def _with_length(headers: list[tuple[bytes, bytes]], size: int) -> list[tuple[bytes, bytes]]:
    others = [pair for pair in headers if pair[0] not in (b"transfer-encoding", b"content-length")]
    return [*others, (b"content-length", str(size).encode())]


def _cut_off(receive: Receive) -> Receive:
    """A body that ends at once; then the disconnect. What still comes of the real body is dropped."""
    told = False

    async def cut() -> dict[str, Any]:
        nonlocal told
        while told:
            message = await receive()
            if message["type"] == "http.disconnect":
                return message
        told = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return cut


def _replay(kept: IO[bytes], size: int, receive: Receive) -> Receive:
    sent = 0
    done = False

    async def again() -> dict[str, Any]:
        nonlocal sent, done
        if done:
            return await receive()
        body = kept.read(PIECE)
        sent += len(body)
        done = sent >= size
        return {"type": "http.request", "body": body, "more_body": not done}

    return again
