"""Unavailable services: which errors mean that, how long to wait between tries, and when not to try.

| service | error when it is unavailable |
| --- | --- |
| PostgreSQL | `comfyserve.db.connections.UNAVAILABLE` |
| Redis | `REDIS`, here |
| the storage | `files.errors.StorageUnavailable` |
| ComfyUI, or a proxy in front of it | `comfyui.Unreachable`, with `access_denied` and `by_gateway` |
| hosts that users name | `comfyserve.outbound.client.OutboundError` |

Each is defined once. Other errors are bugs: they are logged with a traceback, and are not retried forever.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any

from kombu.exceptions import KombuError
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

REDIS = (RedisError, KombuError, OSError)
SKIP_SECONDS = 3.0


class Backoff:
    """Delays between tries, in seconds: each twice the one before, up to `longest`."""

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest = first, longest
        self._next = first

    def next(self) -> float:
        delay, self._next = self._next, min(self._next * 2, self._longest)
        return delay

    def reset(self) -> None:
        """After a success."""
        self._next = self._first


def delay_after(tries: int, *, first: float, longest: float) -> float:
    """Seconds to wait after that many tries, for callers that store the number of tries in a row. As
    `Backoff`, plus or minus a fifth, so that what failed together is not retried together.
    """
    delay: float = min(first * 2.0 ** min(tries - 1, 30), longest)
    return delay * random.uniform(0.8, 1.2)  # noqa: S311  (no secret)


class Breaker:
    """Remembers for a while that a service is unavailable, so that not every caller waits for a timeout."""

    def __init__(
        self, part: str, errors: tuple[type[Exception], ...], *, seconds: float = SKIP_SECONDS
    ) -> None:
        self._part, self._errors, self._seconds = part, errors, seconds
        self.until = 0.0  # monotonic

    @property
    def open(self) -> bool:
        """Do not try now."""
        return time.monotonic() < self.until

    def trip(self, what: str, exc: Exception) -> None:
        """`what` was not done because of `exc`."""
        self.until = time.monotonic() + self._seconds
        logger.warning(
            "%s: %s is unavailable: %s", what, self._part, exc, extra={"action": "part_unavailable"}
        )

    def attempt(self, do: Callable[[], Any], what: str) -> bool:
        """Call `do` once, unless the service was unavailable a moment ago. Returns whether it was done."""
        if self.open:
            return False
        try:
            do()
        except self._errors as exc:
            self.trip(what, exc)
            return False
        return True

    def reset(self) -> None:
        self.until = 0.0


redis = Breaker("Redis", REDIS)  # of this process
