"""The audit log: append-only records of who did what.

    audit.record("worker.pause", on=worker, changes={"desired_state": ("", "pause")})
    audit.record_each("execution.cancel", on=executions)

Both write in the caller's transaction: the row exists exactly if the change was committed. Who, from where
and under which request id is taken from the current request, set by `begin`; without one it is the
system (a task, a command). What is written is masked as in the logs: no password, token or key.

Rejected logins come from unauthenticated clients, who must not fill the disk: see `record_refused`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any

from django.db.models import Model, QuerySet
from django.http import HttpRequest

from accounts import throttling
from accounts.audit_models import AuditEntry
from accounts.models import User
from comfyserve import logs
from comfyserve.api import request_ids
from comfyserve.api.clients import client_address
from comfyserve.db import connections

Changes = Mapping[str, tuple[Any, Any]]

ADMIN = "/admin/"
SECRET = ("password", "secret", "token", "digest", "key")  # parts of names of fields whose values are masked
LONGEST = 500  # characters of a value

_request: ContextVar[HttpRequest | None] = ContextVar("audited_request", default=None)


# -- the current request -------------------------------------------------------------------------------
def begin(request: HttpRequest) -> None:
    """Attribute later records to this request's user."""
    _request.set(request)


def end() -> None:
    _request.set(None)


def _origin() -> dict[str, Any]:
    request = _request.get()
    if request is None:
        return {"via": AuditEntry.Via.SYSTEM}
    return {
        "via": AuditEntry.Via.ADMIN if _is_of_admin(request) else AuditEntry.Via.API,
        "address": client_address(request),
        "request_id": request_ids.current() or "",
    }


def _request_user() -> User | None:
    """The request's user: by its token, or by its admin session, whose cookie is valid only there."""
    request = _request.get()
    if request is None:
        return None
    identity = getattr(request, "bearer_identity", None)
    if not _is_of_admin(request):
        return identity.user if identity else None
    user = getattr(request, "user", None)
    return user if user is not None and user.is_authenticated else None


def _is_of_admin(request: HttpRequest) -> bool:
    return request.path_info.startswith(ADMIN)


# -- writing -------------------------------------------------------------------------------------------
def record(
    action: str,
    *,
    on: Model | None = None,
    actor: User | None = None,
    changes: Changes | None = None,
    note: str = "",
) -> None:
    """One row, in the caller's transaction. `actor`: for requests that do not identify the user (a login)."""
    _entry(action, on, actor or _request_user(), _origin(), changes or {}, note).save(force_insert=True)


def record_each(action: str, *, on: Iterable[Model], changes: Changes | None = None, note: str = "") -> None:
    """A row for each object, in one statement."""
    actor, origin = _request_user(), _origin()
    AuditEntry.objects.bulk_create(
        [_entry(action, each, actor, origin, changes or {}, note) for each in on], batch_size=1000
    )


def _entry(
    action: str, on: Model | None, actor: User | None, origin: dict[str, Any], changes: Changes, note: str
) -> AuditEntry:
    about = {}
    if on is not None:
        about = {
            "object_type": str(on._meta.model_name),
            "object_id": str(on.pk)[:200],
            "object_name": _clean(str(on))[:200],
        }
    return AuditEntry(
        action=action,
        actor=actor.pk if actor else None,
        who=actor.email if actor else "",
        changes={name: [_masked(name, each) for each in pair] for name, pair in changes.items()},
        note=_clean(note)[:LONGEST],
        **about,
        **origin,
    )


def _masked(name: str, value: Any) -> Any:
    """A value as JSON, with secrets masked."""
    if value in (None, ""):
        return value
    if any(part in name.lower() for part in SECRET):
        return logs.MASK
    if isinstance(value, bool | int | float):
        return connections.sanitize_json(value)
    if not isinstance(value, str):
        value = json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)
    return _clean(value)[:LONGEST]


def _clean(text: str) -> str:
    return logs.scrub(str(connections.sanitize_json(text)))


# -- unauthenticated requests --------------------------------------------------------------------------
def record_refused(action: str, *, email: str, address: str, note: str) -> None:
    """A rejected login or password attempt; rate limited.

    A limited number of rows is written per hour, per address and in total: `throttling` counts. The last row
    of an hour says so; the request metrics and the log have all attempts. The input is recorded only if it is
    an account's address: people type passwords into the wrong field.
    """
    recorded = throttling.should_record_refusal(address=address)
    if recorded == "no":
        return
    if recorded == "last":
        note = f"{note}; further attempts this hour are not recorded individually"
    try:
        account = User.objects.get_by_natural_key(email)
    except User.DoesNotExist:
        account = None
    record(action, on=account, note=note)


# -- reading and retention -----------------------------------------------------------------------------
def of(instance: Model, *, most: int = 20) -> QuerySet[AuditEntry]:
    """The history of this object, latest first. One query."""
    rows = AuditEntry.objects.filter(object_type=instance._meta.model_name, object_id=str(instance.pk))
    return rows.order_by("-at", "-id")[:most]
