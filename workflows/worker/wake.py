"""Wakes an idle GPU worker at once when there is work.

An idle worker blocks on a Redis list (BLPOP), which hands each word to exactly one of those who wait. It may
be lost like any ticket: the worker also looks by itself (`maintenance`).
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

BLOCK_SECONDS = 1.0  # then see whether this worker is still idle, or stops
RETRY_SECONDS = 2.0  # while Redis is unavailable


class WakeListener:
    """While the worker is idle: takes wake-ups for it and for all workers, and runs what it finds."""

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
        """Does not wait: what runs in its thread is waited for with the slots."""
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
                notify.ticket()  # this one takes nothing more: another may
            elif woken:
                self._serve()

    def _serve(self) -> None:
        try:
            self._slots.serve()
        except Exception:
            logger.exception("a wake-up was not served")
