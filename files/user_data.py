"""What an editor keeps on the server for a user: settings, saved workflows and subgraphs, by path.

Small files of one user, in PostgreSQL: they are read and written whole, count towards the storage quota, and
are deleted with the account. They are no inputs of executions; uploads are for that.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import Count, QuerySet, Sum, Value
from django.db.models.functions import Now, StrIndex

from accounts import quotas, storage_use
from accounts.models import User
from comfyserve.api.errors import Conflict, LimitExceeded, NotFound, PayloadTooLarge, ValidationFailed

from .models import UserData

LONGEST_PATH = 255  # characters
MAX_FILES = 1000  # of one user
MAX_BYTES = 4 * 1024 * 1024  # of one file
MAX_TOTAL_BYTES = 64 * 1024 * 1024  # of one user
CONTROLS = re.compile(r"[\x00-\x1f\x7f\\]")


@dataclass(frozen=True)
class Info:
    """A file without its content. `size` in bytes."""

    path: str
    size: int
    created_at: datetime
    modified_at: datetime


def clean_path(path: str) -> str:
    """The path without empty parts. ValidationFailed for one that leaves the user's folder, or cannot be
    kept."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    found = "/".join(parts)
    if ".." in parts or CONTROLS.search(found) or len(found) > LONGEST_PATH:
        message = f"It must be a path of at most {LONGEST_PATH} characters, without '..' and backslashes"
        raise ValidationFailed.of("file", message)
    return found


def listed(user: User, *, folder: str = "") -> list[Info]:
    """Files in the folder and below, by path."""
    rows = _of(user)
    if folder:
        # Not `startswith`, whose LIKE depends on an index that there is no need for.
        rows = rows.annotate(at=StrIndex("path", Value(f"{folder}/"))).filter(at=1)
    found = rows.order_by("path").values_list("path", "size", "created_at", "modified_at")
    return [Info(*row) for row in found[:MAX_FILES]]


def read(user: User, path: str) -> bytes:
    content = _of(user).filter(path=path).values_list("content", flat=True).first()
    if content is None:
        raise NotFound(f"There is no file {path}")
    return bytes(content)


def exists(user: User, path: str) -> bool:
    return _of(user).filter(path=path).exists()


def write(user: User, path: str, content: bytes, *, overwrite: bool = True) -> Info:
    """Create or replace. Raises Conflict unless `overwrite`, PayloadTooLarge, and LimitExceeded."""
    with transaction.atomic():
        quotas.lock_storage(user=user)
        row = _of(user).defer("content").filter(path=path).first()
        if row is not None and not overwrite:
            raise Conflict(f"There is a file {path} already")
        return _store(user, path, content, replaced=row)


def change(user: User, path: str, make: Callable[[bytes | None], bytes]) -> Info:
    """Replace the content by what `make` returns for it, None if there is no file yet. No other change can
    happen in between. Raises PayloadTooLarge and LimitExceeded."""
    with transaction.atomic():
        quotas.lock_storage(user=user)
        row = _of(user).filter(path=path).first()
        return _store(user, path, make(bytes(row.content) if row is not None else None), replaced=row)


def _store(user: User, path: str, content: bytes, *, replaced: UserData | None) -> Info:
    """Under the lock of the user's storage."""
    _check(user, content, replaced=replaced)
    row = replaced or UserData(user=user, path=path)
    row.content, row.size, row.modified_at = content, len(content), Now()
    row.save()
    row.refresh_from_db(fields=["created_at", "modified_at"])
    return Info(row.path, row.size, row.created_at, row.modified_at)


def move(user: User, source: str, target: str, *, overwrite: bool = True) -> Info:
    """Rename. Raises NotFound, and Conflict unless `overwrite`."""
    with transaction.atomic():
        quotas.lock_storage(user=user)
        row = _of(user).defer("content").filter(path=source).first()
        if row is None:
            raise NotFound(f"There is no file {source}")
        if source != target:
            taken = _of(user).filter(path=target)
            if not overwrite and taken.exists():
                raise Conflict(f"There is a file {target} already")
            taken.delete()
            row.path = target
            row.save(update_fields=["path"])
    return Info(row.path, row.size, row.created_at, row.modified_at)


def delete(user: User, path: str) -> None:
    deleted, _ = _of(user).filter(path=path).delete()
    if not deleted:
        raise NotFound(f"There is no file {path}")


def _of(user: User) -> QuerySet[UserData]:
    return UserData.objects.filter(user=user)


def _check(user: User, content: bytes, *, replaced: UserData | None) -> None:
    """Under the lock of the user's storage."""
    if len(content) > MAX_BYTES:
        raise PayloadTooLarge(f"A file of user data has at most {MAX_BYTES} bytes")
    has = _of(user).aggregate(files=Count("id"), size=Sum("size", default=0))
    adding = len(content) - (replaced.size if replaced else 0)
    if replaced is None and has["files"] >= MAX_FILES:
        raise LimitExceeded(f"You have {MAX_FILES} files of user data; delete some")
    if adding > 0 and has["size"] + adding > MAX_TOTAL_BYTES:
        raise LimitExceeded(f"Your user data may have {MAX_TOTAL_BYTES} bytes in all; delete some")
    if adding > 0 and quotas.storage_is_limited(user=user):
        storage_use.check(user=user, adding=adding)
