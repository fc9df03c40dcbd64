"""DNS lookups with a timeout: the system's resolver has none that we can set, and may take minutes."""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
from typing import Any

from .public_addresses import Address

AT_ONCE = 64  # concurrent lookups, including those whose caller has given up

_free = threading.BoundedSemaphore(AT_ONCE)


def addresses_of(host: str, port: int, *, seconds: float) -> list[Address]:
    """In the resolver's order, without duplicates. Raises TimeoutError, and what the resolver raises."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    if not _free.acquire(timeout=seconds):
        raise TimeoutError("DNS does not answer")
    threading.Thread(target=_ask, args=(host, port, answers), name="dns", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError("DNS does not answer") from None
    if isinstance(answer, Exception):
        raise answer
    return list(dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).split("%")[0]) for entry in answer))


def _ask(host: str, port: int, answers: queue.SimpleQueue[Any]) -> None:
    try:
        answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except Exception as exc:  # noqa: BLE001  (passed on to the caller)
        answers.put(exc)
    finally:
        _free.release()
