"""The deadline of one exchange, and its cancellation from another thread."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import urllib3

from .errors import TookTooLong, Unreachable


class Cancellation:
    """Cancels the `get` it is passed to, from any thread, whatever that is blocked on; it raises
    TookTooLong."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made = False
        self._deadline: Deadline | None = None

    def make(self) -> None:
        with self._lock:
            self._made = True
            if self._deadline is not None:
                self._deadline.cut()

    def attach(self, deadline: Deadline) -> None:
        with self._lock:
            self._deadline = deadline
            if self._made:
                deadline.cut()


class Deadline:
    """Aborts an exchange at its deadline, whatever it is blocked on.

    Socket timeouts restart with every byte; so the connection is closed from another thread.
    """

    def __init__(self, seconds: float, *, idle: float) -> None:
        self._ends = time.monotonic() + seconds
        self._idle = idle
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._timer = threading.Timer(seconds, self.cut)
        self._timer.daemon = True
        self.over = False

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._release()

    @property
    def left(self) -> float:
        return max(0.01, self._ends - time.monotonic())

    @property
    def pause(self) -> float:
        """Seconds until the next byte must arrive."""
        return min(self._idle, self.left)

    def watch(self, sock: socket.socket) -> None:
        """Our own handle on the connection: TLS detaches the socket object."""
        self._release()
        with self._lock:
            self._handle = sock.dup()
        if self.over:
            self.cut()

    def cut(self) -> None:
        self.over = True
        with self._lock:
            if self._handle is not None:
                try:
                    self._handle.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # closed already

    def _release(self) -> None:
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Library exceptions mapped to ours."""
        try:
            yield
        except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError) as exc:
            if self.over or time.monotonic() >= self._ends:
                raise TookTooLong("The other side took too long") from exc
            if isinstance(exc, TimeoutError | urllib3.exceptions.TimeoutError):
                raise TookTooLong("The other side stopped answering") from exc
            if isinstance(exc, ssl.SSLError | urllib3.exceptions.SSLError):
                raise Unreachable("The other side's certificate is not valid") from exc
            raise Unreachable("The connection could not be made, or broke") from exc
        if self.over:
            raise TookTooLong("The other side took too long")
