"""Heartbeats of Celery processes in Redis: which are alive, and which queues they serve.

`inspect` always takes its whole timeout, since the number of replies is unknown. So each process writes
itself into one hash on its consumer's heartbeat, every two seconds, by the clock of Redis. Lost with Redis:
then no Celery process works either.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import redis
from celery import signals
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from workflows.metrics import store

logger = logging.getLogger(__name__)

KEY = "comfyserve:celery"
SILENT_SECONDS = 15.0
FORGOTTEN_SECONDS = 3600.0
QUEUES = ("gpu", "models", "webhooks", "default")


@dataclass(frozen=True)
class Process:
    name: str
    queues: tuple[str, ...]
    silent_seconds: float


@lru_cache(maxsize=1)
def _client() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_connect_timeout=0.5, socket_timeout=1.0, retry=Retry(NoBackoff(), 1)
    )


def processes() -> list[Process]:
    """Processes with a heartbeat in the last hour. RedisError if Redis does not respond."""
    client = _client()
    now = _seconds(client.time())
    found: Any = client.hgetall(KEY)
    beats = {name.decode(): json.loads(value) for name, value in found.items()}
    gone = [name for name, beat in beats.items() if now - beat["at"] > FORGOTTEN_SECONDS]
    if gone:
        client.hdel(KEY, *gone)
    return [
        Process(name, tuple(beat["queues"]), max(0.0, now - beat["at"]))
        for name, beat in beats.items()
        if name not in gone
    ]


def served(beats: Iterable[Process]) -> dict[str, int]:
    """How many live processes serve each queue."""
    living = [process for process in beats if process.silent_seconds < SILENT_SECONDS]
    return {queue: sum(queue in process.queues for process in living) for queue in QUEUES}


def _seconds(redis_time: Any) -> float:
    return float(redis_time[0]) + float(redis_time[1]) / 1e6


class _Heartbeats:
    """This process, if it is a Celery worker."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.queues: list[str] = []
        self.flusher: store.Flusher | None = None


_own = _Heartbeats()


@signals.worker_ready.connect(weak=False, dispatch_uid="health_ready")
def _ready(sender: Any, **_: Any) -> None:
    _own.name, _own.queues = sender.hostname, sorted(sender.app.amqp.queues.consume_from)
    _own.flusher = store.Flusher()
    _own.flusher.start()
    _record_heartbeat()


@signals.heartbeat_sent.connect(weak=False, dispatch_uid="health_beat")
def _record_heartbeat(**_: Any) -> None:
    if _own.name is None:
        return
    try:
        beat = {"queues": _own.queues, "at": _seconds(_client().time())}
        _client().hset(KEY, _own.name, json.dumps(beat))
    except redis.RedisError as exc:
        logger.debug("no heartbeat of this Celery process: %s", exc)


@signals.worker_shutdown.connect(weak=False, dispatch_uid="health_gone")
def _remove(**_: Any) -> None:
    if _own.name is None:
        return
    try:
        _client().hdel(KEY, _own.name)
    except redis.RedisError:
        pass
    if _own.flusher is not None:
        _own.flusher.stop()
