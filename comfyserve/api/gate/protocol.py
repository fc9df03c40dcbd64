"""uvicorn's HTTP protocol with a deadline and a size limit for headers, before the application sees a
request, and a size limit for what follows them besides the body.

Passed to uvicorn as `--http comfyserve.api.gate.protocol:Protocol`.
"""

from __future__ import annotations

import asyncio
import ipaddress
from asyncio import TimerHandle
from collections import Counter
from typing import Any

from django.conf import settings
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEADER_SECONDS = 15.0  # from the connection, or the end of the last response, to the end of the headers
HEADER_BYTES = 64 * 1024
TOO_MUCH = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)
_open: Counter[str] = Counter()  # connections of each client


def _client(transport: asyncio.Transport) -> str:
    """Its address; empty where clients share one: behind a proxy, and on this machine."""
    peer = str((transport.get_extra_info("peername") or ("",))[0]).split("%")[0]
    try:
        local = ipaddress.ip_address(peer).is_loopback
    except ValueError:
        return ""
    return "" if local or settings.TRUSTED_PROXY_HOPS else peer


class Protocol(HttpToolsProtocol):
    """Closes a connection whose headers are slow or endless, or one too many of a client, without calling the
    application."""

    _header_timer: TimerHandle | None = None
    _header_bytes = 0  # since the last byte of a body
    _in_headers = True
    _counted = ""
    _answered: RequestResponseCycle | None = None  # the request that the application has now

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_headers()
        client = _client(transport)
        most = settings.CONNECTIONS_PER_CLIENT
        if client and most and _open[client] >= most:
            transport.write(TOO_MANY)
            transport.close()
        elif client:
            self._counted = client
            _open[client] += 1

    def data_received(self, data: bytes) -> None:
        if self._in_headers and self._header_timer is None:
            self._await_headers()
        # Outside the headers it counts chunk headers and trailers: `on_body` resets it.
        self._header_bytes += len(data)
        super().data_received(data)
        if self._header_bytes > HEADER_BYTES and not self.transport.is_closing():
            self.transport.write(TOO_MUCH)
            self.transport.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers are dropped: uvicorn would add them to the headers, after those that a proxy has set."""
        if self._in_headers:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """A large piece becomes the next message as it is: uvicorn's two copies take a tenth of an upload's
        processor time.
        """
        self._header_bytes = 0
        cycle: Any = self.cycle
        if len(body) > HIGH_WATER_LIMIT and not cycle.body and not cycle.response_complete:
            cycle.body, body = body, b""
        elif body and isinstance(cycle.body, bytes):
            # Appending many small pieces to bytes would copy all of them each time.
            cycle.body = bytearray(cycle.body)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        # The next bytes are the headers of another request.
        self._in_headers, self._header_bytes = True, 0

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._counted:
            _open[self._counted] -= 1
            if not _open[self._counted]:
                del _open[self._counted]
        if self._answered is not None:
            # uvicorn only notifies the last request, which waits if the client has sent several at once.
            self._answered.disconnected = True
            self._answered.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def _await_headers(self) -> None:
        self._header_timer = self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        self._header_timer = None
        if not self.transport.is_closing():
            self.transport.close()
