"""One answer for all requests of a user that carry the same `Idempotency-Key`, for a day (a setting).

The key's row, the work and the answer are one transaction. So a second request at the same moment waits
at the row's unique constraint, a crash leaves no key that is taken for ever, and a request that fails
leaves none at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import OperationalError, connection, transaction
from psycopg.errors import LockNotAvailable

from accounts.models import IdempotencyRecord, User
from comfyserve.api.errors import Conflict, Unprocessable

WAIT_MILLISECONDS = 1000  # a second request waits so long for the first one's answer

# No row comes back if the key is taken. One that is older than `kept` is taken over; null: for ever.
TAKE = """
INSERT INTO accounts_idempotencyrecord AS r (user_id, key, fingerprint, status, answer, created_at)
VALUES (%(user)s, %(key)s, %(fingerprint)s, 0, '', now())
ON CONFLICT (user_id, key) DO UPDATE
SET fingerprint = EXCLUDED.fingerprint, status = 0, answer = '', created_at = now()
WHERE r.created_at < now() - %(kept)s::interval
RETURNING id
"""


@dataclass(frozen=True)
class Answer:
    status: int
    text: str  # JSON
    replayed: bool = False


def fingerprint(*, method: str, path: str, body: Any) -> str:
    """The same for the same request, however its JSON is laid out."""
    text = json.dumps([method, path, body], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@transaction.atomic
def once(*, user: User, key: str, fingerprint: str, make: Callable[[], Answer]) -> Answer:
    """What `make` answers, or has answered to the same request before.

    Conflict while the first request is still being answered; Unprocessable if the key was used for
    another request. What `make` raises undoes the key.
    """
    record_id = _take(user, key, fingerprint)
    if record_id is None:
        return _again(IdempotencyRecord.objects.get(user=user, key=key), fingerprint)
    answer = make()
    IdempotencyRecord.objects.filter(id=record_id).update(status=answer.status, answer=answer.text)
    return answer


def _take(user: User, key: str, fingerprint: str) -> int | None:
    hours = settings.IDEMPOTENCY_KEY_HOURS
    kept = timedelta(hours=hours) if hours else None
    given: dict[str, Any] = {"user": user.pk, "key": key, "fingerprint": fingerprint, "kept": kept}
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{WAIT_MILLISECONDS}ms"])
        try:
            cursor.execute(TAKE, given)
        except OperationalError as exc:
            if isinstance(exc.__cause__, LockNotAvailable):
                message = "A request with this Idempotency-Key is still being answered; ask again"
                raise Conflict(message, headers={"Retry-After": "1"}) from exc
            raise
        row = cursor.fetchone()
        cursor.execute("SET LOCAL lock_timeout TO DEFAULT")
    return row[0] if row else None


def _again(record: IdempotencyRecord, fingerprint: str) -> Answer:
    if record.fingerprint != fingerprint:
        raise Unprocessable("This Idempotency-Key was used for another request; use a new key for a new one")
    return Answer(record.status, record.answer, replayed=True)
