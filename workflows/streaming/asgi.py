"""Live streams and waits, served by the ASGI application without a thread or database connection each.

The request itself (authentication, permissions, limits) passes briefly through Django's normal handling in a
thread. Its view attaches a `Follow` or a `Wait` to the response; the long-lived part runs here, in the event
loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.handlers.base import BaseHandler
from django.http import HttpResponse
from django.http.response import HttpResponseBase

from accounts.credentials import Credential
from comfyserve.api.errors import Unauthorized, Unavailable
from comfyserve.api.gate.answers import IN_MEMORY, send_content, send_whole, start_of
from comfyserve.api.gate.lanes import RESULTS_WITH_FILES
from comfyserve.api.gate.threads import DjangoThreads
from comfyserve.db import connections
from comfyserve.outbound import tcp_transport
from files import threads
from workflows.presentation import end_message

from .broadcaster import Broadcaster
from .event_reader import Event
from .subscriber import EndWaiter, Reader

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
# A stream ends after this long and its client reconnects, which checks its token again.
LONGEST_SECONDS = 3600.0
# Until the server has noticed the closed connection; otherwise it logs an incomplete response.
DISCONNECT_SECONDS = 1.0
HEARTBEAT = b": \n\n"
REVOKED = "The login or API key of this request was revoked while it waited; the execution goes on"
RETRY_HINT = b"retry: 2000\n\n"
END = b"event: end\ndata: {}\n\n"


@dataclass(frozen=True)
class WithFiles:
    """A body with the content of files. `render` reads them, or leaves them out if it is given False: in a
    thread, as the storage may be slow. It must not query the database.
    """

    user_id: int
    render: Callable[[bool], bytes]


Body = bytes | WithFiles


@dataclass(frozen=True)
class Follow:
    """Respond with a stream for this reader, which begins with `first`.

    `encode` and `end` are for clients that expect another event format: `encode` takes an event and `base`,
    and returns its bytes, possibly empty. It runs in the event loop and must not query the database.

    With `result` the end of the stream is what that returns, if anything. It may query the database; `of_end`
    makes the same of the last event alone, in the event loop, or returns None.
    """

    reader: Reader
    base: str
    encode: Callable[[Event, str], bytes] = lambda event, base: event.encoded(base=base)
    end: bytes = END
    first: bytes = b""
    new: bool = False  # the execution was created by this request
    result: Callable[[], Body | None] | None = None
    of_end: Callable[[Event], Body | None] = lambda event: None  # noqa: ARG005


@dataclass(frozen=True)
class Wait:
    """Hold the response up to `seconds` until all the executions have ended; then replace its content with
    what `result` returns, or leave it unchanged. If `credential` is revoked meanwhile, the response is 401
    with `refusal` as its content.

    `from_rows` makes the result from the rows in the message about the end of a single execution, or returns
    None. It runs in the event loop and must not query the database.
    """

    executions: tuple[UUID, ...]
    seconds: float
    result: Callable[[], Body | None]
    credential: Credential
    refusal: Callable[[], bytes]
    new: bool = False  # the executions were created by this request
    from_rows: Callable[[str], Body | None] = lambda rows: None  # noqa: ARG005


@dataclass(frozen=True)
class Previews:
    """The same as a stream: first what `encode` makes of the executions' previews and progress, possibly
    nothing, then the result. `encode` runs in the event loop and must not query the database.
    """

    user_id: int
    wait: Wait
    encode: Callable[[Event], bytes]


def attach(response: HttpResponseBase, what: Follow | Wait | Previews | WithFiles) -> None:
    """Attach the continuation to a view's response; without the ASGI application it is sent unchanged."""
    response.follow = what  # type: ignore[attr-defined]


_broadcasters: list[Broadcaster] = []  # of this process; one where the ASGI application runs


def open_streams(user_id: int) -> int:
    """The number of streams the user has open in this process."""
    return sum(broadcaster.open_streams(user_id) for broadcaster in _broadcasters)


class Streams:
    """The ASGI application for streams and waits. One per process."""

    def __init__(self, handler: BaseHandler) -> None:
        self.broadcaster = Broadcaster()
        _broadcasters.append(self.broadcaster)
        self._requests = DjangoThreads(handler, threads=8, name="stream-request")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        response = await self._requests.respond(scope)
        assert isinstance(response, HttpResponse)  # noqa: S101  (no view of ours at these paths sends a file)
        follow = vars(response).pop("follow", None)  # it may refer to the response
        if follow is not None:
            response.headers.pop("Content-Length", None)  # it described the response as the view returned it
        if isinstance(follow, Follow) and scope["method"] in ("GET", "POST"):
            await self._stream(follow, response, receive, send, since=began)
            return
        if isinstance(follow, Previews):
            await self._previews(follow, response, receive, send, since=began)
            return
        if isinstance(follow, Wait):
            await self._wait(follow, response, receive, since=began)
        elif isinstance(follow, WithFiles):
            response.content = await _rendered(follow)
        await send_whole(response, send)

    # -- a stream ----------------------------------------------------------------------------------------
    async def _stream(
        self, follow: Follow, response: HttpResponse, receive: Receive, send: Send, *, since: float
    ) -> None:
        reader = follow.reader
        del response["Content-Length"]
        watch = asyncio.create_task(_close_when_gone(receive, reader))
        tcp_transport.abort_stalled_writes(send, seconds=settings.SLOW_READER_SECONDS)
        try:
            await self.broadcaster.join(reader)
            await send(start_of(response))
            await self._send_events(follow, send, since=since if follow.new else None)
        except TimeoutError:
            tcp_transport.abort(send)  # too slow; the client reconnects with Last-Event-ID
            await asyncio.wait([watch], timeout=DISCONNECT_SECONDS)
        finally:
            watch.cancel()
            await self.broadcaster.leave(reader)

    async def _send_events(self, follow: Follow, send: Send, *, since: float | None) -> None:
        """The whole body. What is known at the same time is sent at once: each chunk wakes the client."""
        reader, pieces = follow.reader, RETRY_HINT + follow.first
        ends_at = time.monotonic() + LONGEST_SECONDS * random.uniform(0.9, 1.0)  # noqa: S311  (no secret)
        if self.broadcaster.closing:
            reader.close()
        found = await self._beginning(reader, since=since)
        while not reader.closed and time.monotonic() < ends_at:
            pieces += b"".join(follow.encode(event, follow.base) for event in found)
            last = next((event for event in found if event.ends), None)
            if reader.execution_id is not None and last is not None:
                await self._send_end(follow, last, pieces, send)
                return
            if pieces:
                await _send_chunk(send, pieces)
            pieces = b"" if await reader.wait(HEARTBEAT_SECONDS) else HEARTBEAT
            found = reader.take()
        await _send_chunk(send, pieces, more=False)

    async def _beginning(self, reader: Reader, *, since: float | None) -> list[Event]:
        """Closes the reader if the database is unavailable: its client still learns which execution it
        submitted, and follows it again.
        """
        if reader.closed:
            return []
        try:
            return await self.broadcaster.catch_up(reader, since=since)
        except connections.UNAVAILABLE as exc:
            logger.warning("a live stream ends at once, the database is unavailable: %s", exc)
            reader.close()
            return []

    async def _send_end(self, follow: Follow, last: Event, pieces: bytes, send: Send) -> None:
        """`pieces` and the end, at once if it is short and has no files: reading those may take long."""
        body = await self._end_of(follow, last)
        if isinstance(body, WithFiles):
            await _send_chunk(send, pieces)
            pieces = b""
        end = HttpResponse(await _rendered(body))
        if len(end.content) <= IN_MEMORY:
            await _send_chunk(send, pieces + end.content, more=False)
            return
        if pieces:
            await _send_chunk(send, pieces)
        await send_content(end, send)

    async def _end_of(self, follow: Follow, last: Event) -> Body:
        """Nothing if the result cannot be read now: the client continues after the last event."""
        body = follow.of_end(last)
        if body is None and follow.result is not None:
            try:
                body = await self.broadcaster.reads(follow.result)
            except connections.UNAVAILABLE:
                return b""
        return follow.end if body is None else body

    # -- a wait ------------------------------------------------------------------------------------------
    async def _wait(self, wait: Wait, response: HttpResponse, receive: Receive, *, since: float) -> None:
        """Replace the response's content with the result, or with the current status after a timeout."""
        waiters = [EndWaiter(id_, wait.credential) for id_ in wait.executions]
        watch = asyncio.create_task(_close_when_gone(receive, *waiters))
        until = time.monotonic() + wait.seconds
        try:
            for waiter in waiters:
                self.broadcaster.add_waiter(waiter, since=since if wait.new else None)
            for waiter in waiters:
                await waiter.wait(max(until - time.monotonic(), 0))
            if any(waiter.revoked for waiter in waiters):
                response.status_code, response.content = 401, wait.refusal()
                return
            # Deleted meanwhile, or database unavailable: the response still says that it was accepted.
            with contextlib.suppress(*connections.UNAVAILABLE):
                body = _result_from_message(wait, waiters) or await self.broadcaster.reads(wait.result)
                response.content = await _rendered(body or response.content)
        finally:
            watch.cancel()
            for waiter in waiters:
                self.broadcaster.remove_waiter(waiter)

    async def _previews(
        self, shown: Previews, response: HttpResponse, receive: Receive, send: Send, *, since: float
    ) -> None:
        readers = [
            Reader(user_id=shown.user_id, execution_id=id_, previews=True, credential=shown.wait.credential)
            for id_ in shown.wait.executions
        ]
        tasks: list[asyncio.Task[None]] = []
        tcp_transport.abort_stalled_writes(send, seconds=settings.SLOW_READER_SECONDS)
        try:
            for reader in readers:
                await self.broadcaster.join(reader)
            await send(start_of(response))
            tasks += [asyncio.create_task(_forward(reader, shown.encode, send)) for reader in readers]
            await self._wait(shown.wait, response, receive, since=since)
            await _end(tasks)
            await _send_chunk(send, response.content, more=False)
        except TimeoutError:
            tcp_transport.abort(send)
        finally:
            await _end(tasks)
            for reader in readers:
                await self.broadcaster.leave(reader)

    async def wait_for_end(self, execution_id: UUID, seconds: float, *, credential: Credential) -> bool:
        """Whether the execution ended within `seconds`. Raises Unauthorized if the credential is revoked."""
        waiter = EndWaiter(execution_id, credential)
        try:
            self.broadcaster.add_waiter(waiter)
            ended = await waiter.wait(seconds)
            if waiter.revoked:
                raise Unauthorized(REVOKED)
            return ended
        finally:
            self.broadcaster.remove_waiter(waiter)

    # -- startup and shutdown --------------------------------------------------------------------------------
    def begin(self) -> None:
        """Called at startup, in the main thread's loop: end the streams on the signal that stops the server.

        The server waits for open responses before it notifies the application of the shutdown.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)

            def stop(got: int, frame: Any, before: Any = before) -> None:
                loop.call_soon_threadsafe(lambda: asyncio.ensure_future(self.broadcaster.close()))
                if callable(before):
                    before(got, frame)

            signal.signal(number, stop)

    async def end(self) -> None:
        await self.broadcaster.close()
        await self.broadcaster.end()
        self._requests.shutdown()


# As few threads as build at once: the allocator keeps tens of MiB for each that has built one.
_builders = ThreadPoolExecutor(RESULTS_WITH_FILES.width, thread_name_prefix="files-in-results")


async def _rendered(body: Body) -> bytes:
    """Few bodies with files are built at once; one that does not get its turn in time has none in it."""
    if isinstance(body, bytes):
        return body
    try:
        async with RESULTS_WITH_FILES.turn(body.user_id):
            return await asyncio.get_running_loop().run_in_executor(_builders, body.render, True)
    except Unavailable:
        return await threads.in_thread(body.render, False)


def _result_from_message(wait: Wait, waiters: Sequence[EndWaiter]) -> Body | None:
    """The result from the message about the end of a single execution, if it came with short rows."""
    rows = waiters[0].rows if len(waiters) == 1 else None
    return wait.from_rows(rows) if rows is not None and len(rows) <= end_message.LONGEST else None


async def _send_chunk(send: Send, body: bytes, *, more: bool = True) -> None:
    """Raises TimeoutError if the client has not read the previous data."""
    async with asyncio.timeout(settings.SLOW_READER_SECONDS):
        await send({"type": "http.response.body", "body": body, "more_body": more})


async def _forward(reader: Reader, encode: Callable[[Event], bytes], send: Send) -> None:
    """Send what the reader receives, until it is closed or this is cancelled."""
    while not reader.closed:
        if not await reader.wait(HEARTBEAT_SECONDS):
            await _send_chunk(send, HEARTBEAT)
        if pieces := b"".join(map(encode, reader.take())):
            await _send_chunk(send, pieces)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _close_when_gone(receive: Receive, *readers: Reader | EndWaiter) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    for reader in readers:
        reader.close()
