"""The TCP connection of a request, which ASGI does not expose: uvicorn's, found through its `send`.

After a server has written a response to a client that does not read, the kernel keeps the unsent data, even
after close, for as long as the client likes. Under other servers these functions do nothing.
"""

from __future__ import annotations

import socket
from typing import Any

STUCK_SECONDS = 300.0  # for ordinary responses and files: a player may pause in the middle of a film


def abort_stalled_writes(send: Any, *, seconds: float = STUCK_SECONDS) -> None:
    """Have the kernel drop the connection once its client has acknowledged nothing for that long. Linux
    only."""
    transport = _transport(send)
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
        except (OSError, ValueError):
            pass  # a Unix socket, or closed already


def abort(send: Any) -> None:
    """Abort the connection now; unsent data is dropped."""
    transport = _transport(send)
    if transport is not None:
        transport.abort()


def _transport(send: Any) -> Any:
    found = getattr(getattr(send, "__self__", None), "transport", None)
    return found if hasattr(found, "abort") and hasattr(found, "get_extra_info") else None
