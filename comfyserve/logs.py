"""Log formats and log context.

Each record carries the context in which it is written: request, execution, user, worker. So one execution can
be traced by its id across web, worker and webhooks. Lines are JSON for machines, or plain text for a terminal
(`LOG_FORMAT`). Secrets are masked in both.
"""

from __future__ import annotations

import datetime as dt
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from celery import signals
from pythonjsonlogger.json import JsonFormatter

from comfyserve.api import request_ids

FIELDS = ("request_id", "execution_id", "user_id", "worker")

_fields: ContextVar[dict[str, Any]] = ContextVar("log_fields", default={})  # noqa: B039  (never changed in place)
_of_process: dict[str, Any] = {}


def bind(**fields: Any) -> None:
    """Set context of this thread or task from now on, such as `user_id=7`."""
    _fields.set({**_fields.get(), **fields})


def clear() -> None:
    """Clear the context: a request begins."""
    _fields.set({})


@contextmanager
def bound(*, request_id: str | None = None, **fields: Any) -> Iterator[None]:
    """Set context for the duration of the block; with `request_id` also the request it belongs to."""
    before, request_before = _fields.get(), request_ids.current()
    bind(**fields)
    if request_id:
        request_ids.begin(request_id)
    try:
        yield
    finally:
        _fields.set(before)
        if request_id:
            request_ids.begin(request_before) if request_before else request_ids.end()


def bind_process(**fields: Any) -> None:
    """Context of all lines of this process, such as `worker="gpu-1"`."""
    _of_process.update(fields)


class Context(logging.Filter):
    """Adds the context to the record, unless the call itself gave the field in `extra`."""

    def filter(self, record: logging.LogRecord) -> bool:
        known = {**_of_process, "request_id": request_ids.current(), **_fields.get()}
        for name in FIELDS:
            if getattr(record, name, None) is None:
                setattr(record, name, known.get(name))
        return True


class OnlyCrashes(logging.Filter):
    """Django logs every response from 400 up; comfyserve.requests already has a line for each."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.exc_info is not None


# -- no secrets ----------------------------------------------------------------------------------------------
_SECRETS = re.compile(
    r"(?P<keep>://[^/\s:@]*:)[^@\s/]+(?=@)"  # a password in an address
    r"|(?P<keep2>(?i:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"  # a JSON web token
    r"|\b(?:csk|whsec|hf)_[A-Za-z0-9_+/=-]{8,}"  # API keys, webhook secrets, Hugging Face tokens
    r"|(?P<keep3>(?i:\b(?:password|passwd|secret|token|api_key|signature|sig)[\"']?\s*[=:]\s*[\"']?))[^\s\"'&,;)}]{4,}"
)
# In ASCII, every match of _SECRETS has one of these in it, in lower case. Most lines have none, and finding
# that out is ten times as fast as the expression. Other letters may match too: (?i:s) also matches U+017F.
_MARKS = (
    "://", "bearer", "basic", "eyj", "csk_", "whsec_", "hf_", "password", "passwd", "secret", "token",
    "api_key", "sig",
)  # fmt: skip
MASK = "***"


def scrub(text: str) -> str:
    """The text with passwords, tokens and keys masked."""
    if text.isascii():
        lower = text.lower()
        if not any(mark in lower for mark in _MARKS):
            return text
    return _SECRETS.sub(lambda found: (found["keep"] or found["keep2"] or found["keep3"] or "") + MASK, text)


# -- the two forms -----------------------------------------------------------------------------------------
class Json(JsonFormatter):
    """One JSON object per line: time, level, logger, message, context, and the fields of `extra`."""

    def __init__(self) -> None:
        super().__init__("%(message)s", json_ensure_ascii=False)

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        super().add_fields(log_data, record, message_dict)
        for name in FIELDS:
            if log_data.get(name) is None:
                log_data.pop(name, None)
        log_data.pop("taskName", None)
        first = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
        }
        rest = dict(log_data)
        log_data.clear()
        log_data.update({**first, **rest})

    def format(self, record: logging.LogRecord) -> str:
        return scrub(super().format(record))


# A newline in a message would start a line that looks like another record. Tracebacks keep theirs.
_ESCAPED = {number: f"\\x{number:02x}" for number in (*range(9), *range(10, 32), 0x7F, 0x85)} | {
    0x0A: "\\n", 0x0D: "\\r", 0x2028: "\\u2028", 0x2029: "\\u2029",
}  # fmt: skip


class Line(logging.Formatter):
    """A readable line: time, level, logger, [context], message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s [%(in_hand)s] %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        known = [str(value) for name in FIELDS if (value := getattr(record, name, None)) is not None]
        record.in_hand = " ".join(known) or "-"
        return scrub(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        return super().formatMessage(record).translate(_ESCAPED)


def chosen_format(wanted: str, *, debug: bool) -> str:
    """`json` or `line`. `auto`: a line on a terminal, JSON otherwise."""
    if wanted in ("json", "line"):
        return wanted
    if wanted != "auto":
        raise ValueError(f"LOG_FORMAT={wanted!r}: json, line or auto")
    return "line" if debug or sys.stderr.isatty() else "json"


@signals.setup_logging.connect(weak=False, dispatch_uid="logs_as_django")
def _leave_it_to_django(**_: Any) -> None:
    """Celery sets up no logging of its own if this signal has a receiver. Warnings are logged like other
    records."""
    logging.captureWarnings(True)
