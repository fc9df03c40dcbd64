"""API keys for servers: creation, listing, lookup, deletion."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import Model

from accounts import audit
from accounts.models import ApiKey, Scope, User, UserLimits
from comfyserve.api.errors import Conflict, NotFound

MARK = "csk_"  # prefix that identifies a key, to us and to secret scanners
MAX_KEYS = 50  # keys per user

# One statement finds the key, its user and limits, and records the use, at most once a minute.
FIND = """
WITH used AS (
    UPDATE accounts_apikey SET last_used_at = now()
    WHERE digest = %(digest)s AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
)
SELECT {columns} FROM accounts_apikey k
JOIN accounts_user u ON u.id = k.user_id LEFT JOIN accounts_userlimits l ON l.user_id = u.id
WHERE k.digest = %(digest)s AND u.is_active AND (k.expires_at IS NULL OR k.expires_at > now())
"""


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
    tables: dict[str, type[Model]] = {"k": ApiKey, "u": User, "l": UserLimits}
    names = {
        alias: [field.column for field in model._meta.concrete_fields] for alias, model in tables.items()
    }
    columns = ", ".join(f'{alias}."{name}"' for alias in names for name in names[alias])
    with connection.cursor() as cursor:
        cursor.execute(FIND.format(columns=columns), {"digest": _digest(secret)})
        row = cursor.fetchone()
    if row is None:
        return None
    values: Iterator[Any] = iter(row)
    parts: dict[str, Any] = {alias: [next(values) for _ in names[alias]] for alias in names}
    key, user = ApiKey(*parts["k"]), User(*parts["u"])
    for made in (key, user):
        made._state.adding, made._state.db = False, connection.alias
    key.user = user
    # As select_related does: None means that there is no row, and avoids another query.
    user._state.fields_cache["limits"] = UserLimits(*parts["l"]) if parts["l"][0] is not None else None
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
