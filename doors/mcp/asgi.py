"""The ASGI application at /mcp. Waiting tools hold neither a thread nor a database connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from django.conf import settings
from django.core.handlers.base import BaseHandler
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from comfyserve.api.gate.application import BODY
from comfyserve.api.gate.threads import DjangoThreads, send_whole
from workflows.streaming.asgi import Streams

from . import views
from .server import CALLER, Tools

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class McpApplication:
    """One per process. Works only while `run` is entered."""

    def __init__(self, handler: BaseHandler, streams: Streams) -> None:
        self._requests = DjangoThreads(handler, threads=4, name="mcp-request")
        self._server = Tools(streams).server()
        self._manager: StreamableHTTPSessionManager | None = None

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        # Any process can handle any request: there are no sessions, and a response is one JSON document.
        manager = StreamableHTTPSessionManager(
            self._server, stateless=True, json_response=True, max_request_body_size=settings.MAX_BODY_BYTES
        )
        async with manager.run():
            self._manager = manager
            yield
        self._manager = None
        self._requests.shutdown()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = scope[BODY].read()
        scope[BODY].seek(0)
        response = await self._requests.respond(scope)
        caller = views.caller_of(response)
        if caller is None or self._manager is None:
            await send_whole(response, send)
            return
        known = {**scope, CALLER: caller}
        await self._manager.handle_request(known, _replay(body, receive), send)  # type: ignore[arg-type]


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
