"""A TCP relay that can be cut or stalled: for real servers, which cannot be told to drop a connection."""

from __future__ import annotations

import socket
import threading
import time
from urllib.parse import urlsplit


class Proxy:
    """`url` leads to `target_url`. `cut` closes all connections and refuses new ones until `mend`.

    `hold` keeps connections open but lets nothing through until `mend`, as a network that drops all packets.
    `slow` delays all data, chunk by chunk, until `mend`.
    """

    def __init__(self, target_url: str) -> None:
        parts = urlsplit(target_url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._lock = threading.Lock()
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._whole = threading.Event()
        self._whole.set()
        self._flowing = threading.Event()
        self._flowing.set()
        self._closed = False
        self._delay = 0.0  # seconds per chunk
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def cut(self) -> None:
        self._whole.clear()
        with self._lock:
            ends = [*self._pairs, *self._pairs.values()]
        for end in ends:
            _shut(end)

    def hold(self) -> None:
        self._flowing.clear()

    def slow(self, seconds: float) -> None:
        """Delay each chunk (64 KiB at most) by this long."""
        self._delay = seconds

    def mend(self) -> None:
        self._delay = 0.0
        self._whole.set()
        self._flowing.set()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed = True
        self.cut()
        self._flowing.set()
        _shut(self._listener)
        self._thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near:
            if not self._whole.is_set():
                return
            self._flowing.wait()
            try:
                far = socket.create_connection(self._target)
            except OSError:
                return
            with far:
                self._relay_both(near, far)

    def _relay_both(self, near: socket.socket, far: socket.socket) -> None:
        with self._lock:
            self._pairs[near] = far
        try:
            if not self._whole.is_set():
                return  # cut meanwhile
            back = threading.Thread(target=self._relay, args=(far, near), daemon=True)
            back.start()
            self._relay(near, far)
            back.join()
        finally:
            with self._lock:
                del self._pairs[near]

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self._flowing.wait()
                if self._delay:
                    time.sleep(self._delay)
                sink.sendall(data)
        except OSError:
            pass  # cut
        _shut(sink)


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # already closed
