"""Parsing of `60/m,1000/h,10000/d`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from django.core.exceptions import ValidationError

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
WORDS = {1: "second", 60: "minute", 3600: "hour", 86400: "day"}
HOUR = 3600


@dataclass(frozen=True, order=True)
class Rate:
    period: int  # seconds
    limit: int  # requests

    def __str__(self) -> str:
        return f"{self.limit} requests per {WORDS[self.period]}"


@lru_cache(maxsize=1000)
def parse(text: str) -> tuple[Rate, ...]:
    """The windows, shortest first; none if `text` is `off`. ValueError if it is invalid."""
    if text.strip() == "off":
        return ()
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"([1-9][0-9]{0,8})/([smhd])", part.strip())
        if not match:
            raise ValueError(f"{part!r} is not a rate; write 60/m, 1000/h or 10000/d, with commas, or off")
        found.append(Rate(SECONDS[match[2]], int(match[1])))
    return tuple(sorted(found))


def validate(text: str) -> None:
    """A validator for fields of the admin."""
    try:
        parse(text)
    except ValueError as exc:
        raise ValidationError(str(exc)) from exc


def described(rates: tuple[Rate, ...]) -> Rate | None:
    """The window reported in the headers of a successful response: the hour, else the longest."""
    return next((rate for rate in rates if rate.period == HOUR), rates[-1] if rates else None)
