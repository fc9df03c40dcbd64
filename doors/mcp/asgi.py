"""The ASGI application at /mcp. Waiting tools hold neither a thread nor a database connection."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.handlers.base import BaseHandler
from django.http import HttpResponse

from comfyserve.api.gate.answers import IN_MEMORY, send_whole
from comfyserve.api.gate.application import BODY
from comfyserve.api.gate.threads import DjangoThreads
from workflows.streaming.asgi import Streams

from . import views

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class McpApplication:
    """One per process."""

    def __init__(self, handler: BaseHandler, streams: Streams) -> None:
        self._requests = DjangoThreads(handler, threads=4, name="mcp-request")
        self._streams = streams
        self._new_manager: Callable[[], StreamableHTTPSessionManager] | None = None

    def shutdown(self) -> None:
        self._requests.shutdown()

    def _load(self) -> Callable[[], StreamableHTTPSessionManager]:
        """Imported on the first request: the `mcp` package is a third of what a web process would load."""
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        from .server import Tools

        server = Tools(self._streams).server()
        # Any process can handle any request: there are no sessions, and a response is one JSON document.
        return lambda: StreamableHTTPSessionManager(
            server, stateless=True, json_response=True, max_request_body_size=settings.MAX_BODY_BYTES
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = scope[BODY].read()
        scope[BODY].seek(0)
        response = await self._requests.respond(scope)
        caller = views.caller_of(response)
        if caller is None:
            await send_whole(response, send)
            return
        if self._new_manager is None:
            self._new_manager = await asyncio.to_thread(self._load)
        known = {**scope, views.CALLER: caller}
        try:
            # A manager runs once, and is cheap.
            response = await _collected(self._new_manager(), known, _replay(body, receive))
            if len(response.content) > IN_MEMORY:
                gc.collect(1)  # the `mcp` package leaves a cycle behind that has all of it
        finally:
            caller.turn.end()
        await send_whole(response, send)


async def _collected(manager: StreamableHTTPSessionManager, scope: Scope, receive: Receive) -> HttpResponse:
    """The whole response. The `mcp` package would keep everything that it made of it until a slow client has
    read it."""
    status, headers, pieces = 500, dict[str, str](), list[bytes]()

    async def collect(message: dict[str, Any]) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        else:
            pieces.append(message.get("body", b""))

    async with manager.run():
        await manager.handle_request(scope, receive, collect)  # type: ignore[arg-type]
    body = b"".join(pieces)
    pieces.clear()
    return HttpResponse(body, status=status, headers=headers)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Replays the body that was already received, then reads on, which yields the disconnect."""
    sent = False

    async def again() -> dict[str, Any]:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
