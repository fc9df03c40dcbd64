"""Queries: files by id with permission, lists."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Q, QuerySet
from django.utils import timezone

from accounts.models import User
from comfyserve.api.errors import NotFound
from comfyserve.db import rows
from comfyserve.db.rows import Columns

from .models import File

LONGEST_ID = 40


def alive() -> QuerySet[File]:
    """Files that have not expired. An expired file in use is kept, but no longer shown."""
    return File.objects.filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()))


_FILE = Columns(File, "f")
_ALIVE_SQL = f"""
    SELECT u.is_active, {_FILE} FROM files_file f JOIN accounts_user u ON u.id = f.user_id
    WHERE f.id = %s AND (f.expires_at IS NULL OR f.expires_at > statement_timestamp())
"""  # noqa: S608


def file_of(*, file_id: str, user: User | None = None) -> File:
    """The file; the user's own, if a user is given. NotFound otherwise. One query."""
    found = file_with_owner(file_id)[0]
    if user is not None:
        if found.user_id != user.pk:
            raise _not_found(file_id)
        found.user = user
    return found


def file_with_owner(file_id: str) -> tuple[File, bool]:
    """(the file, whether its user's account is active). NotFound if there is none. One query."""
    row = rows.prepared(_ALIVE_SQL, [file_id]).fetchone() if len(file_id) <= LONGEST_ID else None
    if row is None:
        raise _not_found(file_id)
    return _FILE.read(row, at=1), bool(row[0])


def _not_found(file_id: str) -> NotFound:
    return NotFound(f"There is no file {file_id[:100]}")


def with_blake3(*, user: User, blake3: str) -> File | None:
    """The user's newest file with these bytes."""
    return alive().filter(user=user, blake3=blake3).order_by("-created_at").first() if blake3 else None


def files_of(
    *,
    user: User,
    kind: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
) -> QuerySet[File]:
    """The user's files, latest first."""
    found = alive().filter(user=user).order_by("-created_at", "id")
    if kind:
        found = found.filter(kind=kind)
    if created_after:
        found = found.filter(created_at__gte=created_after)
    if created_before:
        found = found.filter(created_at__lt=created_before)
    return found
