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
    """Cancels the `get` it is passed to, from any thread, whatever that `get` is blocked on; it then raises
    TookTooLong.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._deadline: Deadline | None = None

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._deadline is not None:
                self._deadline.abort()

    def attach(self, deadline: Deadline) -> None:
        with self._lock:
            self._deadline = deadline
            if self._cancelled:
                deadline.abort()


class Deadline:
    """Aborts an exchange at its deadline, whatever it is blocked on.

    Socket timeouts restart with every byte; so the connection is closed from another thread.
    """

    def __init__(self, seconds: float, *, idle: float) -> None:
        self._until = time.monotonic() + seconds
        self._idle = idle
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._timer = threading.Timer(seconds, self.abort)
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
        return max(0.01, self._until - time.monotonic())

    @property
    def idle_left(self) -> float:
        """Seconds until the next byte must arrive."""
        return min(self._idle, self.left)

    def watch(self, sock: socket.socket) -> None:
        """Keep a handle on the connection: TLS detaches the socket object."""
        self._release()
        with self._lock:
            self._handle = sock.dup()
        if self.over:
            self.abort()

    def abort(self) -> None:
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
    def translated_errors(self) -> Iterator[None]:
        """Library exceptions mapped to ours."""
        try:
            yield
        except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError) as exc:
            if self.over or time.monotonic() >= self._until:
                raise TookTooLong("The other side took too long") from exc
            if isinstance(exc, TimeoutError | urllib3.exceptions.TimeoutError):
                raise TookTooLong("The other side stopped answering") from exc
            if isinstance(exc, ssl.SSLError | urllib3.exceptions.SSLError):
                raise Unreachable("The other side's certificate is not valid") from exc
            raise Unreachable("The connection could not be made, or broke") from exc
        if self.over:
            raise TookTooLong("The other side took too long")
