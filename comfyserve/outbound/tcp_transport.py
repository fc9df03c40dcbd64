"""The TCP connection under a request, which ASGI does not show: uvicorn's, by the `send` that it gives.

A server that has written a response into a connection whose client reads nothing keeps what it could not
send, even after it has closed it, for as long as that client likes. Under other servers nothing happens here.
"""

from __future__ import annotations

import socket
from typing import Any

STUCK_SECONDS = 300.0  # of ordinary answers and files: a player may pause in the middle of a film


def abort_stalled_writes(send: Any, *, seconds: float = STUCK_SECONDS) -> None:
    """Have the system break the connection when its client took nothing for so long. Linux only."""
    transport = _transport(send)
    line = transport.get_extra_info("socket") if transport is not None else None
    if line is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        try:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
        except OSError:
            pass  # a Unix socket, or closed already


def cut(send: Any) -> None:
    """Break the connection now; what was not sent is dropped."""
    transport = _transport(send)
    if transport is not None:
        transport.abort()


def _transport(send: Any) -> Any:
    found = getattr(getattr(send, "__self__", None), "transport", None)
    return found if hasattr(found, "abort") and hasattr(found, "get_extra_info") else None
