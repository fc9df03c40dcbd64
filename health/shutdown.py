"""The life cycle of a web process: startup and graceful shutdown.

At SIGTERM readiness fails immediately. With SHUTDOWN_DELAY_SECONDS the process keeps serving for that long,
so that the load balancer notices and sends no more; then the server stops as usual.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from types import FrameType

from django.conf import settings

from comfyserve.db import pooling
from workflows.metrics import store

from . import latency

logger = logging.getLogger(__name__)

_begun = threading.Event()


def begun() -> bool:
    """Whether this process is shutting down."""
    return _begun.is_set()


class Life:
    """Of one web process; called by its ASGI lifespan, in this order."""

    def __init__(self) -> None:
        self._flusher = store.Flusher(before=latency.gather_process_counters)

    def begin(self) -> None:
        _delay_the_end()
        self._flusher.start()
        threading.Thread(target=pooling.report, name="sessions", daemon=True).start()

    def ends(self) -> None:
        """No new requests are accepted; some still run."""
        _begun.set()

    async def end(self) -> None:
        await asyncio.to_thread(self._flusher.stop)


def _delay_the_end() -> None:
    """Runs before the server's own SIGTERM handler, which closes the port immediately."""
    if threading.current_thread() is not threading.main_thread():
        return
    servers = signal.getsignal(signal.SIGTERM)
    loop = asyncio.get_running_loop()

    def handle(number: int, frame: FrameType | None) -> None:
        first = not _begun.is_set()
        _begun.set()
        if not callable(servers):
            signal.signal(number, servers)
            signal.raise_signal(number)
        elif first and settings.SHUTDOWN_DELAY_SECONDS > 0:
            loop.call_soon_threadsafe(loop.call_later, settings.SHUTDOWN_DELAY_SECONDS, servers, number, None)
        else:
            servers(number, frame)

    signal.signal(signal.SIGTERM, handle)
