"""The outermost ASGI application. It renders no rejection itself: Django does, in the error format."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from comfyserve.api.bodies import STREAM, BodyStream
from comfyserve.api.clients import address_of
from comfyserve.api.errors import (
    ApiError,
    PayloadTooLarge,
    RequestTimeout,
    Unauthorized,
    Unavailable,
    as_api_error,
)
from comfyserve.db import connections

from .lanes import LARGE_BODIES, Lane
from .routes import SMALL, Route, route_of

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Keys in the scope of an accepted request.
BODY = "comfyserve.buffered"  # the whole body, a file to read from
WHO = "comfyserve.who"  # whose share of the lane it takes: a user's id, or a client's address
LANE = "comfyserve.lane"  # the Lane in which it is handled, or None
REFUSAL = "comfyserve.refusal"  # the ApiError to respond with; there is no body then

IN_MEMORY = 256 * 1024  # bytes of a body kept in memory; the rest is spooled to disk
MAX_LARGE_BODIES, MAX_PER_USER = 64, 16  # bodies above SMALL that arrive at the same time
# How much is still read of a body that is too large, so that its sender gets to read the error.
DROPPED_TIMES, DROPPED_SECONDS = 8, 3.0  # multiples of the limit, by its Content-Length
CLOSE = {"Connection": "close"}


class ClientDisconnected(Exception):
    """Before its body was complete."""


class Gate:
    def __init__(self, app: App, *, user_of: Callable[[str], int | None]) -> None:
        """`user_of`: the id of the user whose valid credential an Authorization header carries. It may query
        the database."""
        self.app = app
        self._user_of = user_of
        self._arriving: Counter[int] = Counter()  # users of large bodies
        self._lookups = ThreadPoolExecutor(2, thread_name_prefix="gate")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # WSGI maps `X_Name` and `X-Name` to the same key: a client could override what our proxy set.
        headers = [pair for pair in scope["headers"] if b"_" not in pair[0]]
        scope = {**scope, "headers": headers}
        route = route_of(scope["method"], scope["path"])
        if route.streamed:
            await self._streamed(scope, receive, send, route)
            return
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as body:
            try:
                size, user = await self._read(scope, receive, route, body)
            except ClientDisconnected:
                return
            except ApiError as refusal:
                if isinstance(refusal, PayloadTooLarge | Unavailable):
                    await _drop_rest(scope, receive, route)
                await self._refuse(scope, send, refusal)
                return
            body.seek(0)
            lane = LARGE_BODIES if size > SMALL else route.lane
            who = address_of(scope, headers) if user is None else user
            known = {**scope, "headers": _with_length(headers, size), BODY: body, LANE: lane, WHO: who}
            await self.app(known, _replay(body, receive), send)

    async def _streamed(self, scope: Scope, receive: Receive, send: Send, route: Route) -> None:
        try:
            if _length(scope["headers"]) > route.body_bytes:
                raise _too_large(route)
            await self._authenticate(scope["headers"])
        except ApiError as refusal:
            await self._refuse(scope, send, refusal)
            return
        stream = BodyStream(receive, route)
        await self.app({**scope, STREAM: stream}, stream.for_django, send)

    async def _refuse(self, scope: Scope, send: Send, refusal: ApiError) -> None:
        with tempfile.SpooledTemporaryFile() as empty:
            headers = _with_length(scope["headers"], 0)
            refused = {**scope, "headers": headers, BODY: empty, LANE: None, REFUSAL: refusal}
            await self.app(refused, _nothing(), send)

    # -- the body ----------------------------------------------------------------------------------------
    async def _read(
        self, scope: Scope, receive: Receive, route: Route, body: IO[bytes]
    ) -> tuple[int, int | None]:
        """Its size once it has fully arrived; if it is large, also its user. Raises ClientDisconnected, or
        the ApiError to reject it with."""
        declared = _length(scope["headers"])
        if declared > route.body_bytes:
            raise _too_large(route)
        if not declared and not _is_chunked(scope["headers"]):
            return 0, None
        user = await self._admit(scope) if declared > SMALL else None
        began, size, more = time.monotonic(), 0, True
        try:
            while more:
                piece, more = await _next(receive, began + route.deadline(size))
                size += len(piece)
                if size > route.body_bytes:
                    raise _too_large(route)
                if size > SMALL and user is None:  # not announced by Content-Length
                    user = await self._admit(scope)
                body.write(piece)
        finally:
            if user is not None:
                self._arriving[user] -= 1
        return size, user

    async def _admit(self, scope: Scope) -> int:
        """The user of a large body, which counts as arriving from now on."""
        user = await self._authenticate(scope["headers"])
        if self._arriving.total() >= MAX_LARGE_BODIES or self._arriving[user] >= MAX_PER_USER:
            raise Unavailable("Too many large requests arrive at once; try again shortly")
        self._arriving += Counter([user])  # drops those that have none any more
        return user

    async def _authenticate(self, headers: list[tuple[bytes, bytes]]) -> int:
        """The user whose valid credential the request carries; one database query."""
        given = next((value for name, value in headers if name == b"authorization"), b"")
        loop = asyncio.get_running_loop()
        try:
            user = await loop.run_in_executor(self._lookups, self._look_up, given.decode("latin-1"))
        except Exception as exc:
            raise as_api_error(exc) or exc from exc
        if user is None:
            raise Unauthorized(
                "Authentication required: send an Authorization header with a valid bearer token",
                headers={"WWW-Authenticate": "Bearer", **CLOSE},
            )
        return user

    def _look_up(self, authorization: str) -> int | None:
        try:
            return self._user_of(authorization)
        finally:
            connections.release()


async def _next(receive: Receive, until: float) -> tuple[bytes, bool]:
    """The next piece of a body, by then (monotonic), and whether more follows."""
    try:
        async with asyncio.timeout(until - time.monotonic()):
            message = await receive()
    except TimeoutError:
        raise RequestTimeout("The body arrived too slowly", headers=CLOSE) from None
    if message["type"] == "http.disconnect":
        raise ClientDisconnected
    return message.get("body", b""), message.get("more_body", False)


def _too_large(route: Route) -> PayloadTooLarge:
    where = "" if route.streamed else "; send large files to /files/upload and name them by their file_id"
    return PayloadTooLarge(f"The body has more than {route.body_bytes} bytes{where}", headers=CLOSE)


async def _drop_rest(scope: Scope, receive: Receive, route: Route) -> None:
    """Read what a client still sends of a rejected body, for a while and up to a limit.

    Many clients read no response before everything is sent: they would see a reset connection and not the
    error. Clients that wait for "100 Continue", or announce a very large body, are answered immediately.
    """
    declared = _length(scope["headers"])
    if route.body_bytes <= SMALL:
        return  # nothing of that kind is sent there by mistake
    if b"expect" in dict(scope["headers"]) or not 0 < declared <= DROPPED_TIMES * route.body_bytes:
        return
    more = True
    try:
        async with asyncio.timeout(DROPPED_SECONDS):
            while more:
                more = (await receive()).get("more_body", False)
    except TimeoutError:
        return


def _length(headers: list[tuple[bytes, bytes]]) -> int:
    text = next((value for name, value in headers if name == b"content-length"), b"0")
    return int(text[:20]) if text.isdigit() else 0


def _is_chunked(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name == b"transfer-encoding" for name, _ in headers)


def _with_length(headers: list[tuple[bytes, bytes]], size: int) -> list[tuple[bytes, bytes]]:
    others = [pair for pair in headers if pair[0] not in (b"transfer-encoding", b"content-length")]
    return [*others, (b"content-length", str(size).encode())] if size else others


def _nothing() -> Receive:
    """Instead of a rejected body: the rest of it is not read."""
    delivered = False

    async def empty() -> dict[str, Any]:
        nonlocal delivered
        if delivered:
            await asyncio.Event().wait()
        delivered = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return empty


def _replay(body: IO[bytes], receive: Receive) -> Receive:
    """For an application that reads the body itself; afterwards only the disconnect follows."""
    delivered = False

    async def again() -> dict[str, Any]:
        nonlocal delivered
        while delivered:
            message = await receive()
            if message["type"] == "http.disconnect":
                return message
        delivered = True
        return {"type": "http.request", "body": b"" if body.closed else body.read(), "more_body": False}

    return again


def lane_of(scope: Scope) -> Lane | None:
    found: Lane | None = scope.get(LANE)
    return found
