"""Rechecks the credentials of connections that outlive their request."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from django.db.models import Q
from django.db.models.functions import Now
from django.http import HttpRequest

from accounts import authentication
from accounts.models import ApiKey, Session, User


@dataclass(frozen=True)
class Credential:
    """The row that must stay valid. `user`: a signed link, which is valid for as long as the account."""

    kind: Literal["session", "key", "user"]
    id: UUID | int


def of_request(request: HttpRequest, *, user_id: int) -> Credential:
    """The request's credential; if it has no token, a signed link of this user."""
    identity = authentication.identify(request)
    if identity is None:
        return Credential("user", user_id)
    kind: Literal["session", "key"] = "key" if isinstance(identity.via, ApiKey) else "session"
    return Credential(kind, identity.via.pk)


def still_valid(credentials: Collection[Credential]) -> set[Credential]:
    """Those that a new request could still use. One query for each kind."""
    ids: dict[str, Any] = {"session": [], "key": [], "user": []}
    for credential in credentials:
        ids[credential.kind].append(credential.id)
    found: set[Credential] = set()
    if ids["session"]:
        sessions = Session.objects.filter(id__in=ids["session"], ended_at=None, user__is_active=True)
        found |= {
            Credential("session", session.pk)
            for session in sessions.select_related("user")
            if session.password_stamp == session.user.password_stamp
        }
    if ids["key"]:
        unexpired = Q(expires_at=None) | Q(expires_at__gt=Now())
        keys = ApiKey.objects.filter(unexpired, id__in=ids["key"], user__is_active=True)
        found |= {Credential("key", id_) for id_ in keys.values_list("id", flat=True)}
    if ids["user"]:
        users = User.objects.filter(id__in=ids["user"], is_active=True)
        found |= {Credential("user", id_) for id_ in users.values_list("id", flat=True)}
    return found
