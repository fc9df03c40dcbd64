"""Notifies a worker of a command. Losing a ticket is harmless: workers poll every 2 s."""

from __future__ import annotations

import logging
import time

import redis
from kombu.exceptions import KombuError

from comfyserve import tickets

logger = logging.getLogger(__name__)

LOOK_FOR_COMMANDS = "models_registry.tasks.look_for_commands"
SKIP_SECONDS = 3.0

_away_until = 0.0


def ticket(host: str) -> None:
    global _away_until
    if time.monotonic() < _away_until:
        return
    try:
        tickets.send(LOOK_FOR_COMMANDS, queue=f"gpu.{host}")
    except (redis.RedisError, KombuError, OSError) as exc:
        _away_until = time.monotonic() + SKIP_SECONDS
        logger.warning("ticket not sent, Redis is unavailable: %s", exc)
