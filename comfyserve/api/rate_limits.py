"""Request rate limits: django-ratelimit's windows, counted in Redis.

A client is a user, or an address if nobody is logged in. The shortest window is counted first and a rejected
request is counted in no longer one, so that hammering costs a minute and not the day. If Redis is
unavailable, requests are allowed, logged and counted (`comfyserve_rate_limit_skipped_total`).
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django_ratelimit.core import get_usage
from prometheus_client import Counter

from comfyserve import outages

from . import rate_limit_cache, rates
from .clients import client_address, network
from .errors import LimitExceeded
from .rates import Rate

logger = logging.getLogger(__name__)
skipped = Counter(
    "comfyserve_rate_limit_skipped", "Requests allowed without counting because Redis was unavailable"
)


@dataclass(frozen=True)
class Usage:
    """One window, as reported in the headers."""

    rate: Rate
    count: int
    time_left: int  # seconds

    @property
    def exceeded(self) -> bool:
        return self.count > self.rate.limit

    @property
    def seconds_until_next(self) -> int:
        """Until the next window: the second in which a window ends still belongs to it."""
        return max(0, self.time_left) + 1

    def headers(self) -> dict[str, str]:
        return {
            "X-RateLimit-Limit": str(self.rate.limit),
            "X-RateLimit-Remaining": str(max(0, self.rate.limit - self.count)),
            "X-RateLimit-Reset": str(int(time.time()) + self.seconds_until_next),
        }


def rates_for(user: Any) -> tuple[Rate, ...]:
    """The user's own windows if the operator set some, else the default. `user` None: anonymous."""
    own = getattr(getattr(user, "limits", None), "rate_limits", "")
    if own:
        try:
            return rates.parse(own)
        except ValueError:
            logger.exception("user %s has invalid rate limits", user.pk)
    return rates.parse(settings.RATE_LIMITS)


def unused(windows: tuple[Rate, ...]) -> Usage | None:
    """The full limit, for requests that are not counted."""
    rate = rates.described(windows)
    return Usage(rate, 0, rate.period) if rate else None


def count(request: HttpRequest, *, user: Any) -> Usage | None:
    """Count the request in every window; returns the one to report. LimitExceeded if one is full."""
    windows = rates_for(user)
    if not windows:
        return None
    if outages.redis.open:
        skipped.inc()
        return unused(windows)
    who = f"user:{user.pk}" if user else f"address:{network(client_address(request))}"
    try:
        return _count(request, windows, who)
    except outages.REDIS as exc:
        outages.redis.trip("requests are not rate limited", exc)
        skipped.inc()
        return unused(windows)


def _count(request: HttpRequest, windows: tuple[Rate, ...], who: str) -> Usage | None:
    with rate_limit_cache.noted() as counters:
        found = [
            get_usage(
                request, group="api", key=lambda *_: who, rate=(rate.limit, rate.period), increment=True
            )
            for rate in windows
        ]
    counts = rate_limit_cache.count(counters, [rate.limit for rate in windows])
    usages = [
        Usage(rate, count, window["time_left"])
        for rate, count, window in zip(windows, counts, found, strict=False)  # fewer counts: one is exceeded
    ]
    if usages[-1].exceeded:
        raise _refusal(usages[-1])
    reported = rates.described(windows)
    return next((usage for usage in usages if usage.rate == reported), None)


def _refusal(usage: Usage) -> LimitExceeded:
    return LimitExceeded(
        f"Too many requests. Rate limit: {usage.rate}.",
        headers={**usage.headers(), "Retry-After": str(usage.seconds_until_next)},
    )
