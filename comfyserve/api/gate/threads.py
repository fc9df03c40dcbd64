"""Django's ordinary, synchronous handling of a request, in a thread that never waits for a client.

The thread receives a complete body. A complete response is sent from the event loop; of a streaming one, a
thread produces the next chunk once the client has taken the previous one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TypeVar

from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest
from django.http.response import HttpResponseBase, StreamingHttpResponse
from django.urls import ResolverMatch, set_script_prefix

from comfyserve.api.errors import ApiError
from comfyserve.db import connections

from .answers import send_whole, start_of
from .application import BODY, LANE, REFUSAL, WHO, Receive, Scope, Send, lane_of

T = TypeVar("T")
PIECE = 64 * 1024  # bytes of a stream sent per chunk


class ThreadHandler(WSGIHandler):
    """Django's handler, for requests that are handled in a thread.

    A view that takes both halves of the server has a synchronous twin, `in_thread`, for GET and HEAD. A match
    that a middleware has found for the same path is used again: URLs are resolved once.
    """

    def resolve_request(self, request: HttpRequest) -> ResolverMatch:
        found = request.resolver_match
        if found is None:
            found = super().resolve_request(request)
        if request.method in ("GET", "HEAD"):
            found.func = getattr(found.func, "in_thread", found.func)
        return found


class DjangoThreads:
    """The ASGI application for short requests. Each instance has its own threads."""

    def __init__(self, handler: BaseHandler, *, threads: int, name: str) -> None:
        self._handler = handler
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.respond(scope)
        if isinstance(response, StreamingHttpResponse):
            await self._send_stream(response, receive, send)
        else:
            await send_whole(response, send)

    async def respond(self, scope: Scope) -> HttpResponseBase:
        """Django's response. In a lane it waits for its slot first, without a thread."""
        lane = lane_of(scope)
        try:
            async with lane.turn(scope.get(WHO)) if lane else nullcontext():
                return await self._in_thread(self._answer, scope)
        except ApiError as refusal:  # of the lane
            return await self._in_thread(self._answer, {**scope, LANE: None, REFUSAL: refusal})
        finally:
            scope[BODY].close()  # not needed while the response waits or streams

    async def _in_thread(self, do: Callable[..., T], *given: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, do, *given)

    def _answer(self, scope: Scope) -> HttpResponseBase:
        set_script_prefix(scope.get("root_path", "") or "/")
        response = self._handler.get_response(ASGIRequest(scope, scope[BODY]))
        _break_cycles(response)
        if response.streaming:
            connections.release()
        else:
            response.close()  # returns the database connection
        return response

    async def _send_stream(self, response: StreamingHttpResponse, receive: Receive, send: Send) -> None:
        """Ends early when the client disconnects: the server would discard the rest."""
        gone = asyncio.create_task(_disconnect(receive))
        try:
            await send(start_of(response))
            pieces = iter(response)
            while not gone.done() and (piece := await self._in_thread(_gathered, pieces)):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            await self._in_thread(response.close)

    def shutdown(self) -> None:
        self._threads.shutdown(wait=False)


def _break_cycles(response: HttpResponseBase) -> None:
    """REST framework's view, request and response refer to each other. They would be kept, with bodies of
    megabytes, until the garbage collector finds them, for which it stops all threads.
    """
    context = getattr(response, "renderer_context", None)
    if context:
        vars(context["view"]).clear()
        context["request"].parser_context.clear()
        context.clear()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _gathered(pieces: Iterator[bytes]) -> bytes:
    """The next chunks, joined to PIECE bytes or a little more; empty at the end."""
    found: list[bytes] = []
    size = 0
    for piece in pieces:
        found.append(piece)
        size += len(piece)
        if size >= PIECE:
            break
    return b"".join(found)
