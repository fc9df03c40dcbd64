"""ComfyUI's `/ws`: one user's view, to the client id that a prompt was submitted with.

The handshake goes through Django like every request, so the same limits, credentials and logs apply to it.
After that a websocket holds neither a thread nor a database connection.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.handlers.base import BaseHandler
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from accounts import credentials
from accounts.credentials import Credential
from comfyserve.api.errors import ApiError, LimitExceeded, ValidationFailed
from comfyserve.api.gate.application import BODY, LANE
from comfyserve.api.gate.threads import DjangoThreads
from comfyserve.outbound import tcp_transport
from workflows.api.views import user_of
from workflows.streaming import asgi
from workflows.streaming.asgi import Streams
from workflows.streaming.broadcaster import Broadcaster
from workflows.streaming.event_reader import Event
from workflows.streaming.subscriber import MessageReader

from . import machine, messages
from .errors import ComfyUIView
from .prompts import LONGEST_CLIENT_ID

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

UPGRADE = "comfyserve.websocket"  # in the scope of a handshake
LONGEST_SECONDS = 24 * 3600.0
MAX_MESSAGES = 5000  # per message from a client
GOING_AWAY, POLICY, TRY_LATER = 1001, 1008, 1013  # codes of closing


class UpgradeRequired(ApiError):
    status = 426
    error = "upgrade_required"


@dataclass(frozen=True)
class Admitted:
    """A handshake that was accepted. It ends when `credential` is no longer valid."""

    user_id: int
    client_id: str
    credential: Credential


class WebsocketView(ComfyUIView):
    def get(self, request: Request) -> HttpResponse:
        """Admit the websocket. LimitExceeded if the user has too many open streams."""
        user, client_id = user_of(request), request.query_params.get("clientId") or uuid.uuid4().hex
        if not request._request.scope.get(UPGRADE):  # type: ignore[attr-defined]
            raise UpgradeRequired("This route is a websocket", headers={"Upgrade": "websocket"})
        if len(client_id) > LONGEST_CLIENT_ID:
            raise ValidationFailed.of("clientId", f"It must have at most {LONGEST_CLIENT_ID} characters")
        limit = settings.STREAMS_PER_USER
        if limit and asgi.open_streams(user.pk) >= limit:
            raise LimitExceeded(f"You have {limit} streams open", headers={"Retry-After": "10"})
        credential = credentials.of_request(request._request, user_id=user.pk)
        response = HttpResponse(status=101)
        response.admitted = Admitted(user.pk, client_id, credential)  # type: ignore[attr-defined]
        return response


class Websockets:
    """The ASGI application for scopes of type websocket. One for each process."""

    def __init__(self, handler: BaseHandler, streams: Streams) -> None:
        self._requests = DjangoThreads(handler, threads=2, name="websocket-request")
        self._broadcaster = streams.broadcaster
        self._newest: dict[tuple[int, str], Websocket] = {}  # by user and client id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        response = await self._requests.respond(_as_request(scope))
        admitted: Admitted | None = getattr(response, "admitted", None)
        if admitted is None or self._broadcaster.closing:
            await _refuse(response, scope, send)
            return
        await send({"type": "websocket.accept"})
        await Websocket(admitted, self._broadcaster, self._newest).serve(receive, send)

    def shutdown(self) -> None:
        self._requests.shutdown()


def _as_request(scope: Scope) -> Scope:
    http = {"http": "http", "https": "https", "ws": "http", "wss": "https"}[scope.get("scheme", "ws")]
    headers = [pair for pair in scope["headers"] if b"_" not in pair[0]]  # as the gate does
    return {
        **scope, "type": "http", "method": "GET", "scheme": http, "headers": headers,
        BODY: io.BytesIO(), LANE: None, UPGRADE: True,
    }  # fmt: skip


async def _refuse(response: HttpResponseBase, scope: Scope, send: Send) -> None:
    """With Django's response where the server can send it, else as 403."""
    if response.status_code < 200 or "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})
        return
    assert isinstance(response, HttpResponse)  # noqa: S101  (no view of ours at these paths sends a file)
    headers = [(name.lower().encode("latin1"), value.encode("latin1")) for name, value in response.items()]
    start = {"type": "websocket.http.response.start", "status": response.status_code, "headers": headers}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": response.content})


class Websocket:
    """One open connection."""

    def __init__(
        self, admitted: Admitted, broadcaster: Broadcaster, newest: dict[tuple[int, str], Websocket]
    ) -> None:
        self._user_id, self._client_id = admitted.user_id, admitted.client_id
        self._broadcaster = broadcaster
        self._newest = newest
        self._reader = MessageReader(user_id=admitted.user_id, credential=admitted.credential)
        self._with_metadata = False
        self._ready = asyncio.Event()
        self._announced: set[UUID] = set()  # for which a `status` was sent
        self._started: set[UUID] = set()  # for which `execution_start` was sent

    async def serve(self, receive: Receive, send: Send) -> None:
        """Runs until the client disconnects or is too slow, its credential ends, or the server stops."""
        # ComfyUI: of several connections with one client id, the newest gets the messages.
        self._newest[self._user_id, self._client_id] = self
        self._send = send
        tcp_transport.abort_stalled_writes(send, seconds=settings.SLOW_READER_SECONDS)
        listening = asyncio.create_task(self._listen(receive))
        try:
            await self._broadcaster.join(self._reader)
            await self._send_events()
            await self._send_with_timeout({"type": "websocket.close", "code": self._close_code()})
        except TimeoutError:
            tcp_transport.abort(send)
        except OSError:
            pass  # the client has disconnected
        finally:
            listening.cancel()
            await self._broadcaster.leave(self._reader)
            if self._newest.get((self._user_id, self._client_id)) is self:
                del self._newest[self._user_id, self._client_id]

    # -- from the client ---------------------------------------------------------------------------------
    async def _listen(self, receive: Receive) -> None:
        for number in range(MAX_MESSAGES):
            message = await receive()
            if message["type"] == "websocket.disconnect":
                break
            flags = _flags(message.get("text")) if number == 0 else None
            if flags is not None:
                self._with_metadata = bool(flags.get("supports_preview_metadata"))
                await self._ready.wait()
                await self._send_text(messages.message("feature_flags", machine.features()))
        self._reader.close()

    def _close_code(self) -> int:
        if self._broadcaster.closing:
            return GOING_AWAY
        return TRY_LATER if self._reader.overflowed else POLICY

    # -- to the client -----------------------------------------------------------------------------------
    async def _send_events(self) -> None:
        self._initial = await self._broadcaster.reads(messages.initial_state, self._user_id, self._client_id)
        self._announced |= self._initial.alive
        await self._send_text(messages.status(self._initial.remaining, sid=self._client_id))
        self._ready.set()
        if self._initial.node is not None:
            await self._send_text(messages.message("executing", {"node": self._initial.node}))
        ends_at = time.monotonic() + LONGEST_SECONDS
        while not self._reader.closed and time.monotonic() < ends_at:
            await self._reader.wait(ends_at - time.monotonic())
            for event in self._reader.take():
                await self._handle_event(event)

    async def _handle_event(self, event: Event) -> None:
        id_ = event.execution_id
        if event.ends:
            await self._end(id_)
            return
        if id_ not in self._announced:
            self._announced.add(id_)
            await self._send_status()
        if event.name == "comfyui":
            await self._relay(id_, event.data["client_id"], event.data["message"])

    async def _relay(self, id_: UUID, client_id: str | None, message: dict[str, Any]) -> None:
        if not self._is_for_us(client_id, message["type"]):
            return
        if message["type"] == "execution_start":
            self._started.add(id_)
        relayed = messages.relayed(message, with_metadata=self._with_metadata)
        await (self._send_bytes(relayed) if isinstance(relayed, bytes) else self._send_text(relayed))

    async def _end(self, id_: UUID) -> None:
        """The outputs are stored by now, so clients find them in the history after this message."""
        end = await self._broadcaster.reads(messages.end_of, id_)
        self._announced.discard(id_)
        if end is None or not self._ends_after_opening(id_, end):
            return
        ours = self._is_for_us(end.client_id, "executed")
        if ours:
            for text in (*self._missing_start(id_, end), *end.outputs, end.last):
                await self._send_text(text)
        await self._send_status()
        if ours:
            await self._send_text(messages.message("executing", {"node": None, "prompt_id": id_}))

    def _missing_start(self, id_: UUID, end: messages.End) -> list[str]:
        """If no worker could announce the start, because Redis was unavailable."""
        known = id_ in self._started
        self._started.discard(id_)
        return [] if known or id_ in self._initial.alive else [end.first]

    def _ends_after_opening(self, id_: UUID, end: messages.End) -> bool:
        """The broadcaster also reports executions that ended within the last minute."""
        at = end.completed_at
        return id_ in self._initial.alive or (at is not None and at >= self._initial.now)

    def _is_for_us(self, client_id: str | None, kind: str) -> bool:
        if self._newest.get((self._user_id, self._client_id)) is not self:
            return False
        return kind in messages.BROADCAST if client_id is None else client_id == self._client_id

    async def _send_status(self) -> None:
        await self._send_text(
            messages.status(await self._broadcaster.reads(messages.remaining, self._user_id))
        )

    async def _send_text(self, text: str) -> None:
        await self._send_with_timeout({"type": "websocket.send", "text": text})

    async def _send_bytes(self, data: bytes) -> None:
        await self._send_with_timeout({"type": "websocket.send", "bytes": data})

    async def _send_with_timeout(self, message: dict[str, Any]) -> None:
        """TimeoutError if the client has not read the previous messages."""
        async with asyncio.timeout(settings.SLOW_READER_SECONDS):
            await self._send(message)


def _flags(text: str | None) -> dict[str, Any] | None:
    """The feature flags in the client's first message; None if it is another message."""
    try:
        given = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, dict) or given.get("type") != "feature_flags":
        return None
    data = given.get("data")
    return data if isinstance(data, dict) else {}
