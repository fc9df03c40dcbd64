"""API keys for servers: creation, listing, lookup, deletion."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime

from django.db import transaction

from accounts import audit, user_rows
from accounts.models import ApiKey, Scope, User
from comfyserve.api.errors import Conflict, NotFound
from comfyserve.db import rows
from comfyserve.db.rows import Columns

MARK = "csk_"  # prefix that identifies a key, to us and to secret scanners
MAX_KEYS = 50  # keys per user

_KEY = Columns(ApiKey, "c")
# One statement finds the key, its user and limits, and records the use, at most once a minute.
_FIND_SQL = f"""
    WITH used AS (
        UPDATE accounts_apikey SET last_used_at = now()
        WHERE digest = %(digest)s AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
    )
    SELECT {_KEY}, {user_rows.COLUMNS} FROM accounts_apikey c {user_rows.JOINS}
    WHERE c.digest = %(digest)s AND u.is_active AND (c.expires_at IS NULL OR c.expires_at > now())
"""  # noqa: S608  (no value of a user in it)


def create(
    *, user: User, name: str, expires_at: datetime | None = None, scope: str = Scope.ALL
) -> tuple[ApiKey, str]:
    """The row, and the key itself, which cannot be retrieved again."""
    secret = MARK + secrets.token_urlsafe(32)
    with transaction.atomic():
        User.objects.select_for_update().get(id=user.id)  # so that parallel requests respect the limit
        if ApiKey.objects.filter(user=user).count() >= MAX_KEYS:
            raise Conflict(f"You have {MAX_KEYS} API keys; delete one first")
        key = ApiKey.objects.create(
            user=user,
            name=name,
            prefix=secret[:12],
            digest=_digest(secret),
            expires_at=expires_at,
            scope=scope,
        )
        audit.record("key.make", on=key, note=f"for {user.email}")
    return key, secret


def find(secret: str) -> ApiKey | None:
    """The key with its user and the user's limits, in one query. None: not a valid key."""
    row = rows.prepared(_FIND_SQL, {"digest": _digest(secret)}).fetchone()
    if row is None:
        return None
    key = _KEY.read(row)
    key.user = user_rows.read(row, at=len(_KEY))
    return key


@transaction.atomic
def delete(*, user: User, key_id: int) -> None:
    key = ApiKey.objects.filter(user=user, id=key_id).first()
    if key is None or not ApiKey.objects.filter(id=key_id).delete()[0]:
        raise NotFound("You have no such API key")
    audit.record("key.revoke", on=key, note=f"of {user.email}")


@transaction.atomic
def delete_all(*, user: User) -> None:
    """All keys of the user stop working immediately."""
    for key in ApiKey.objects.filter(user=user):
        audit.record("key.revoke", on=key, note=f"of {user.email}, with a reset of the password")
    ApiKey.objects.filter(user=user).delete()


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
