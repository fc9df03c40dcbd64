"""Detects slow calls inside a transaction: they would hold its locks for an unbounded time.

Installed for the whole suite by conftest. A call of ours over the network, to Redis or the storage, or a
sleep, while this thread has a transaction open (the one that a test itself runs in does not count) fails the
test.
"""

from __future__ import annotations

import functools
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import redis.connection
import urllib3.connectionpool
from django.db import connection

from files import backend

ROOT = Path(__file__).parent.parent
LONG = 0.01  # seconds; a shorter sleep is none

found: list[str] = []
_inside = threading.local()


def is_open() -> bool:
    """Whether this thread has a transaction of its own code open."""
    return any(not block._from_testcase for block in connection.atomic_blocks)  # type: ignore[attr-defined]


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(3)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _note(what: str) -> None:
    """Where the nearest code of this repository is a test, the test itself wants it so."""
    for frame in _frames():
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and ".venv" not in path.parts and "site-packages" not in path.parts:
            where = f"{path.relative_to(ROOT)}:{frame.f_lineno}, {frame.f_code.co_name}"
            if path.parts[len(ROOT.parts)] != "tests":
                found.append(f"{what} inside a transaction: {where}")
            return


def _watch(owner: Any, name: str, what: str, *, counts: Callable[..., bool] = lambda *_, **__: True) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def watched(*args: Any, **given: Any) -> Any:
        if not getattr(_inside, "noting", False) and is_open() and counts(*args, **given):
            _inside.noting = True
            try:
                _note(what)
            finally:
                _inside.noting = False
        return original(*args, **given)

    setattr(owner, name, watched)


def install() -> None:
    _watch(urllib3.connectionpool.HTTPConnectionPool, "urlopen", "an HTTP request")
    _watch(socket.socket, "connect", "a connection")
    _watch(socket, "getaddrinfo", "a look-up of a name")
    _watch(redis.connection.AbstractConnection, "send_packed_command", "a call of Redis")
    _watch(backend, "_translated_errors", "a call of the storage")
    _watch(time, "sleep", "a sleep", counts=lambda seconds: seconds >= LONG)
