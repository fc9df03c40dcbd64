"""Complete responses on their way to a client.

A large one waits on disk for its client: otherwise clients that read slowly, or nothing, would fill the
memory with what they asked for. They also have to read it at a minimum rate.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import IO, Any

from django.conf import settings
from django.http import HttpResponse
from django.http.response import HttpResponseBase

from comfyserve.outbound import tcp_transport

Send = Callable[[dict[str, Any]], Awaitable[None]]

IN_MEMORY = 256 * 1024  # bytes of a body that are handed to the server at once
PIECE = 64 * 1024  # bytes of a larger one that are read from disk at once
READING_SECONDS = 60.0  # for any body
READING_RATE = 16 * 1024  # bytes per second on average, once the seconds have passed


async def send_whole(response: HttpResponseBase, send: Send) -> None:
    """Send a response that does not stream. Afterwards a large one has no content any more."""
    assert isinstance(response, HttpResponse)  # noqa: S101  (it does not stream)
    size = len(response.content)
    response.headers.setdefault("Content-Length", str(size))  # of HEAD it is that of GET
    await send(start_of(response))
    await send_content(response, send)


async def send_content(response: HttpResponse, send: Send) -> None:
    """The same for its content alone, to its end."""
    size = len(response.content)
    if size <= IN_MEMORY:
        await send({"type": "http.response.body", "body": response.content})
        return
    with await asyncio.to_thread(_on_disk, response) as body:
        await _send_file(body, size, send)


def start_of(response: HttpResponseBase) -> dict[str, Any]:
    """The message that begins the response: status and headers."""
    headers = [(name.lower().encode("latin1"), value.encode("latin1")) for name, value in response.items()]
    headers += [(b"set-cookie", morsel.OutputString().encode()) for morsel in response.cookies.values()]
    return {"type": "http.response.start", "status": response.status_code, "headers": headers}


def _on_disk(response: HttpResponse) -> IO[bytes]:
    """The content, moved to a file that has no name. In containers `/tmp` is memory, so it is not there."""
    settings.INCOMING_DIR.mkdir(parents=True, exist_ok=True)
    body = tempfile.TemporaryFile(dir=settings.INCOMING_DIR)  # noqa: SIM115  (closed by the caller)
    body.write(response.content)
    body.seek(0)
    response.content = b""
    if hasattr(response, "data"):
        response.data = None  # what REST framework rendered: several times as large
    return body


async def _send_file(body: IO[bytes], size: int, send: Send) -> None:
    """Send it as it is read; cut off a client that is too slow."""
    began = time.monotonic()
    for sent in range(0, size, PIECE):
        message = {"type": "http.response.body", "body": body.read(PIECE), "more_body": sent + PIECE < size}
        deadline = began + READING_SECONDS + sent / READING_RATE
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await send(message)
        except TimeoutError:
            tcp_transport.abort(send)
            await send(message)  # returns when the server has noticed, which would log an error otherwise
            return
