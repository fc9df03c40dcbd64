"""Values of headers that other servers send, which may be anything."""

from __future__ import annotations

import email.utils
import re
from datetime import UTC, datetime

MAX_SECONDS = 24 * 3600.0  # of a Retry-After


def whole_number(text: str) -> int | None:
    """None unless it is a number of at most 18 digits 0-9. `str.isdigit` also accepts characters that `int`
    rejects, and `int` raises beyond 4,300 digits."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def seconds_until(text: str, *, now: datetime) -> float:
    """The seconds that a Retry-After header asks for, at most a day; 0 if it is missing or invalid."""
    text = text.strip()
    seconds = float(whole_number(text) or 0)
    if not seconds:
        try:
            at = email.utils.parsedate_to_datetime(text)
            seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), MAX_SECONDS)
