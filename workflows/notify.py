"""What is told after a change: a ticket to the GPU workers, a word to live readers.

All of it may be lost without harm: workers look by themselves, readers read PostgreSQL. So none of it is
ever retried or waited for, and while Redis is away it is skipped.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import redis
from django.conf import settings
from kombu.exceptions import KombuError

from comfyserve import tickets

logger = logging.getLogger(__name__)

SKIP_SECONDS = 3.0
LOOK_FOR_WORK = "workflows.tasks.look_for_work"
CHANNEL = "comfyserve:events"  # what live streams hear, of all executions
DELIVER_WEBHOOKS = "workflows.tasks.deliver_webhooks"

_redis = redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=0.3, socket_timeout=1.0)
_away_until = 0.0


def ticket(worker: str | None = None) -> None:
    """Say that there is work: to whichever GPU worker hears it first, or to one by its backend's name."""
    queue = f"gpu.{worker}" if worker else "gpu"
    _unless_unavailable(lambda: tickets.send(LOOK_FOR_WORK, queue=queue), "ticket")


def wake_webhooks() -> None:
    """Say that there is something in the outbox."""
    _unless_unavailable(lambda: tickets.send(DELIVER_WEBHOOKS, queue="webhooks"), "ticket")


def announce_status(execution_id: UUID, *, ended: bool = False) -> None:
    """Readers of this execution should look again: there is a new line, and it may be the last."""
    _publish({"type": "lines", "id": execution_id, "ended": ended})


def announce_progress(execution_id: UUID, columns: dict[str, Any], *, lines: bool) -> None:
    """How far it is now; `lines` says that there are new ones as well."""
    _publish({"type": "progress", "id": execution_id, "lines": lines, "progress": columns})


def announce_preview(execution_id: UUID, preview: dict[str, Any]) -> None:
    """Only to those who listen for previews of this execution: a picture is too large for all."""
    message = json.dumps({"type": "preview", "id": execution_id, "preview": preview}, default=str)
    _unless_unavailable(lambda: _redis.publish(preview_channel(execution_id), message), "preview")


def somebody_wants_previews(execution_id: UUID) -> bool:
    """Whether a stream with previews of it is open anywhere. False while Redis is away."""
    found: list[int] = []
    name = preview_channel(execution_id)
    _unless_unavailable(lambda: found.extend(count for _, count in _redis.pubsub_numsub(name)), "question")
    return any(found)


def preview_channel(execution_id: UUID) -> str:
    return f"comfyserve:preview:{execution_id}"


def _publish(message: dict[str, Any]) -> None:
    _unless_unavailable(lambda: _redis.publish(CHANNEL, json.dumps(message, default=str)), "event")


def _unless_unavailable(send: Callable[[], Any], what: str) -> None:
    global _away_until
    if time.monotonic() < _away_until:
        return
    try:
        send()
    except (redis.RedisError, KombuError, OSError) as exc:
        _away_until = time.monotonic() + SKIP_SECONDS
        logger.warning("%s not sent, Redis is away: %s", what, exc)
