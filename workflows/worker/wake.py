"""Wakes an idle GPU worker as soon as there is work.

An idle worker blocks on a Redis list (BLPOP), which delivers each message to exactly one waiting worker. A
message may be lost like any ticket: the worker also polls (`maintenance`).
"""

from __future__ import annotations

import logging
import threading

import redis
from django.conf import settings

from comfyserve import outages
from workflows import notify

from .slots import Slots

logger = logging.getLogger(__name__)

BLOCK_SECONDS = 1.0  # then check whether this worker is still idle, or stopping
RETRY_SECONDS = 2.0  # while Redis is unavailable


class WakeListener:
    """While the worker is idle, receives wake-ups for it and for all workers, and runs what it finds."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._keys = [notify.wake_key(f"gpu.{slots.backend.name}"), notify.wake_key("gpu")]
        self._redis = redis.Redis.from_url(
            settings.REDIS_URL, socket_connect_timeout=RETRY_SECONDS, socket_timeout=BLOCK_SECONDS + 4
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wake", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Does not wait: `Slots.wait_empty` covers what runs in its thread."""
        self._stopping.set()

    def join(self, *, timeout: float) -> None:
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._slots.wait_idle(timeout=BLOCK_SECONDS):
                continue
            try:
                woken = self._redis.blpop(self._keys, timeout=BLOCK_SECONDS)
            except outages.REDIS as exc:
                logger.warning("no wake-ups, Redis is unavailable: %s", exc)
                self._stopping.wait(RETRY_SECONDS)
                continue
            if woken and self._stopping.is_set():
                notify.ticket()  # this worker claims nothing more: pass it on
            elif woken:
                self._serve()

    def _serve(self) -> None:
        try:
            self._slots.serve()
        except Exception:
            logger.exception("a wake-up was not served")
