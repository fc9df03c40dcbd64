"""The id of the request in hand: taken from the caller if it is sane, else made."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar

SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_current: ContextVar[str | None] = ContextVar("request_id", default=None)


def begin(offered: str | None) -> str:
    request_id = offered if offered and SANE.fullmatch(offered) else f"req_{secrets.token_hex(8)}"
    _current.set(request_id)
    return request_id


def current() -> str | None:
    return _current.get()
