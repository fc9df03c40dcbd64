"""A Redis cache that counts in one round trip, for django-ratelimit.

django-ratelimit asks its cache three times for each window: add (SET NX), has_key and INCR, together 2 ms
for three windows. Here `add` counts and sets the expiry in one script, and `incr` or `get` right after it
answer from its result. One client for the process: Django would make one for each thread, and on
the ASGI half one for each request.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import redis
from django.conf import settings
from django.core.cache.backends.base import BaseCache
from redis.backoff import NoBackoff
from redis.retry import Retry

COUNT = """
local count = redis.call('INCRBY', KEYS[1], ARGV[1])
if redis.call('TTL', KEYS[1]) < 0 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
return count
"""


@lru_cache(maxsize=4)
def client(url: str) -> redis.Redis:
    """Short timeouts: a request must not wait for an unavailable Redis. One retry, for a stale connection."""
    return redis.Redis.from_url(
        url, socket_connect_timeout=0.3, socket_timeout=1.0, retry=Retry(NoBackoff(), 1)
    )


@lru_cache(maxsize=4)
def _script(url: str) -> Any:
    return client(url).register_script(COUNT)


class CountingCache(BaseCache):
    def __init__(self, location: str, params: dict[str, Any]) -> None:  # noqa: ARG002
        super().__init__(params)
        self._counts: dict[str, int] = {}

    def add(self, key: str, value: Any, timeout: Any = None, version: int | None = None) -> bool:
        """Adds `value` to the count. True if the count was created by this call."""
        made = self.make_and_validate_key(key, version=version)
        count = int(_script(settings.REDIS_URL)(keys=[made], args=[int(value), int(timeout)]))
        self._counts = {made: count}
        return count == int(value)

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:  # noqa: ARG002
        return self._counts[self.make_and_validate_key(key, version=version)]

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        return self._counts.get(self.make_and_validate_key(key, version=version), default)
