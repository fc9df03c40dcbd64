"""The id of the current request: the caller's if it is valid, else generated.

It is on every response and in every log line, and is passed with each Celery message to the worker.
"""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar
from typing import Any

from celery import signals

SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")
HEADER = "comfyserve_request_id"  # header of a Celery message
_current: ContextVar[str | None] = ContextVar("request_id", default=None)


def begin(offered: str | None) -> str:
    request_id = offered if offered and SANE.fullmatch(offered) else f"req_{secrets.token_hex(8)}"
    _current.set(request_id)
    return request_id


def current() -> str | None:
    return _current.get()


def end() -> None:
    """Later log lines of this thread belong to no request."""
    _current.set(None)


@signals.before_task_publish.connect(dispatch_uid="request_id_out")
def _send_along(headers: dict[str, Any], **_: Any) -> None:
    if current():
        headers[HEADER] = current()


@signals.task_prerun.connect(dispatch_uid="request_id_in")
def _bind(task: Any, **_: Any) -> None:
    if offered := _carried(task):
        begin(offered)


@signals.task_postrun.connect(dispatch_uid="request_id_end")
def _unbind(task: Any, **_: Any) -> None:
    # A task called as a function within a request keeps the request's id.
    if _carried(task) and not task.request.is_eager:
        end()


def _carried(task: Any) -> str | None:
    """A worker finds the message's headers among the request's fields, an eager task beside them."""
    found: str | None = task.request.get(HEADER) or (task.request.headers or {}).get(HEADER)
    return found
