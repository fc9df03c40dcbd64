"""Queries: files by id with permission, lists."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Q, QuerySet
from django.utils import timezone

from accounts.models import User
from comfyserve.api.errors import NotFound

from .models import File


def alive() -> QuerySet[File]:
    """Files that have not expired. An expired file in use is kept, but no longer shown."""
    return File.objects.filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()))


def file_of(*, file_id: str, user: User | None = None) -> File:
    """The file; the user's own, if a user is given. NotFound otherwise."""
    rows = alive() if user is None else alive().filter(user=user)
    found = rows.filter(id=file_id).first() if len(file_id) <= 40 else None
    if found is None:
        raise NotFound(f"There is no file {file_id[:100]}")
    return found


def with_blake3(*, user: User, blake3: str) -> File | None:
    """A file of the user that has these bytes, the newest."""
    return alive().filter(user=user, blake3=blake3).order_by("-created_at").first() if blake3 else None


def files_of(
    *,
    user: User,
    kind: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
) -> QuerySet[File]:
    """The user's files, latest first."""
    rows = alive().filter(user=user).order_by("-created_at", "id")
    if kind:
        rows = rows.filter(kind=kind)
    if created_after:
        rows = rows.filter(created_at__gte=created_after)
    if created_before:
        rows = rows.filter(created_at__lt=created_before)
    return rows
