"""The body of an upload, read by its view as it arrives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from .errors import ApiError
from .gate.routes import FORM, Route

Receive = Callable[[], Awaitable[dict[str, Any]]]

__all__ = ["FORM", "STREAM", "BodyStream", "ClientGone"]

STREAM = "comfyserve.body"  # the key of a BodyStream in the scope


class BodyStream:
    """A body that a view reads as it arrives. Django, which would buffer it whole, sees an empty one."""

    def __init__(self, receive: Receive, route: Route) -> None:
        self._receive = receive
        self._route = route
        self._delivered = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises ClientGone when the rest does not arrive, or arrives too slowly."""
        began, received, more = time.monotonic(), 0, True
        while more:
            left = began + self._route.deadline(received) - time.monotonic()
            try:
                async with asyncio.timeout(min(self._route.seconds, left)):
                    message = await self._receive()
            except TimeoutError:
                raise ClientGone("The body arrived too slowly", headers={"Connection": "close"}) from None
            if message["type"] == "http.disconnect":
                raise ClientGone("The body ended too early")
            more = message.get("more_body", False)
            if piece := message.get("body", b""):
                received += len(piece)
                yield piece

    async def for_django(self) -> dict[str, Any]:
        """The receive callable Django gets instead. Afterwards it waits for the disconnect, which the reader
        sees."""
        if self._delivered:
            await asyncio.Event().wait()
        self._delivered = True
        return {"type": "http.request", "body": b"", "more_body": False}


class ClientGone(ApiError):
    """No client receives the response, unless it is only slow."""

    status = 400
    error = "validation_error"
