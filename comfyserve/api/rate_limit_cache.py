"""A Redis cache that counts in one round trip, for django-ratelimit.

django-ratelimit asks its cache three times for each window: add (SET NX), has_key and INCR, together 2 ms
for three windows. Here `add` only notes the counter that django-ratelimit names, and `count_noted` counts all
those of a request in one script. One client for the process: Django would make one for each thread, and on
the ASGI half one for each request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import redis
from django.conf import settings
from django.core.cache.backends.base import BaseCache
from redis.backoff import NoBackoff
from redis.retry import Retry

# KEYS: counters; ARGV: for each its limit and its seconds. A request that exceeds a limit is not counted in
# the counters after that one, which are missing in the answer.
COUNT = """
local counts = {}
for i, key in ipairs(KEYS) do
    counts[i] = redis.call('INCR', key)
    if redis.call('TTL', key) < 0 then redis.call('EXPIRE', key, ARGV[2 * i]) end
    if counts[i] > tonumber(ARGV[2 * i - 1]) then break end
end
return counts
"""


@dataclass(frozen=True)
class Counter:
    key: str
    seconds: int  # until it expires


_noted: ContextVar[list[Counter] | None] = ContextVar("counters_noted", default=None)


@lru_cache(maxsize=4)
def client(url: str) -> redis.Redis:
    """Short timeouts: a request must not wait for an unavailable Redis. One retry, for a stale connection."""
    return redis.Redis.from_url(
        url, socket_connect_timeout=0.3, socket_timeout=1.0, retry=Retry(NoBackoff(), 1)
    )


@lru_cache(maxsize=4)
def _script(url: str) -> Any:
    return client(url).register_script(COUNT)


@contextmanager
def noted() -> Iterator[list[Counter]]:
    """The counters that django-ratelimit increments within the block, which are not incremented yet."""
    counters: list[Counter] = []
    before = _noted.set(counters)
    try:
        yield counters
    finally:
        _noted.reset(before)


def count(counters: Sequence[Counter], limits: Sequence[int]) -> list[int]:
    """Increment the counters in order, up to the first that exceeds its limit; their new values."""
    arguments = [
        number for counter, limit in zip(counters, limits, strict=True) for number in (limit, counter.seconds)
    ]
    return [
        int(each)
        for each in _script(settings.REDIS_URL)(keys=[each.key for each in counters], args=arguments)
    ]


class CountingCache(BaseCache):
    """For use within `noted` only."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:  # noqa: ARG002
        super().__init__(params)

    def add(self, key: str, value: Any, timeout: Any = None, version: int | None = None) -> bool:  # noqa: ARG002
        """Notes the counter instead of creating it."""
        counters = _noted.get()
        if counters is None:
            raise RuntimeError("no counters are being noted")
        # django-ratelimit's keys are hashes: there is nothing to validate
        counters.append(Counter(self.make_key(key, version=version), int(timeout)))
        return True
