"""One response for all requests of a user with the same `Idempotency-Key`, for a day (a setting).

A key is claimed in a short transaction of its own. Then the request prepares its work (it stores files, asks
DNS) with no transaction open. From `begin_commit` on, the rows that it makes and the answer that is repeated
later are one transaction, which also checks that the key is still this request's.

A crash before that commit leaves a claim that expires; nothing was made, and the key can be used again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import OperationalError, connection, transaction
from psycopg.errors import LockNotAvailable

from accounts.models import IdempotencyRecord, User
from comfyserve.api.errors import Conflict, Unprocessable
from comfyserve.db import connections

WAIT_SECONDS = 1.0  # how long a second request waits for the first one's response
POLL_SECONDS = 0.05  # poll interval of that wait
CLAIM_SECONDS = 120.0  # after that, another request with the key may take it over
IN_FLIGHT = 0  # status of a record without a response yet

# Returns no row if the key is taken. Replaces an expired claim, and a response older than `kept` (null:
# never).
CLAIM = """
INSERT INTO accounts_idempotencyrecord AS r (user_id, key, fingerprint, status, answer, created_at)
VALUES (%(user)s, %(key)s, %(fingerprint)s, 0, '', clock_timestamp())
ON CONFLICT (user_id, key) DO UPDATE
SET fingerprint = EXCLUDED.fingerprint, status = 0, answer = '', created_at = EXCLUDED.created_at
WHERE r.created_at < clock_timestamp() - %(kept)s::interval
    OR r.status = 0 AND r.created_at < clock_timestamp() - %(claim)s::interval
RETURNING id, created_at
"""


@dataclass(frozen=True)
class Answer:
    status: int
    text: str  # JSON
    replayed: bool = False


@dataclass
class _Claim:
    """A key that this request holds. `claimed_at` distinguishes it from a later claim of the same key."""

    record_id: int
    claimed_at: datetime
    transaction: ExitStack = field(default_factory=ExitStack)
    committing: bool = False

    def begin_commit(self) -> None:
        if self.committing:
            return
        self.committing = True
        self.transaction.enter_context(transaction.atomic())
        if not self._record().select_for_update().exists():
            raise Conflict("This request took too long, and another one has used its Idempotency-Key")

    def write(self, answer: Answer) -> None:
        self._record().update(status=answer.status, answer=answer.text)

    def release(self) -> None:
        """Let the key be used again at once; should that fail, it expires."""
        with suppress(*connections.UNAVAILABLE):
            self._record().delete()

    def _record(self) -> Any:
        found = IdempotencyRecord.objects.filter(id=self.record_id, created_at=self.claimed_at)
        return found.filter(status=IN_FLIGHT)


_current: ContextVar[_Claim | None] = ContextVar("idempotency_claim", default=None)


def fingerprint(*, method: str, path: str, body: Any) -> str:
    """The same for equivalent requests, however their JSON is formatted."""
    text = json.dumps([method, path, body], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def begin_commit() -> None:
    """To be called between the slow preparation of a request and its first write.

    From here to the request's answer is one transaction. Nothing happens without an Idempotency-Key.
    Conflict if another request has taken over the key.
    """
    claim = _current.get()
    if claim is not None:
        claim.begin_commit()


def once(*, user: User, key: str, fingerprint: str, make: Callable[[], Answer]) -> Answer:
    """The result of `make`, or the stored response to the same request.

    `make` calls `begin_commit` before it writes. What it raises undoes that, and frees the key. Conflict
    while the first request is still being answered; Unprocessable if the key was used for another request.
    """
    found = _claim_or_answer(user, key, fingerprint)
    if isinstance(found, Answer):
        return found
    with _held(found):
        answer = make()
        found.begin_commit()
        found.write(answer)
    return answer


@contextmanager
def _held(claim: _Claim) -> Iterator[None]:
    before = _current.set(claim)
    try:
        with claim.transaction:
            yield
    except BaseException:
        claim.release()
        raise
    finally:
        _current.reset(before)


def _claim_or_answer(user: User, key: str, fingerprint: str) -> _Claim | Answer:
    until = time.monotonic() + WAIT_SECONDS
    while True:
        claim = _claim(user, key, fingerprint)
        if claim is not None:
            return claim
        record = IdempotencyRecord.objects.filter(user=user, key=key).first()
        if record is not None and record.fingerprint != fingerprint:
            message = "This Idempotency-Key was used for another request; use a new key for a new one"
            raise Unprocessable(message)
        if record is not None and record.status != IN_FLIGHT:
            return Answer(record.status, record.answer, replayed=True)
        if time.monotonic() > until:
            message = "A request with this Idempotency-Key is still in progress; try again"
            raise Conflict(message, headers={"Retry-After": "1"})
        time.sleep(POLL_SECONDS)


def _claim(user: User, key: str, fingerprint: str) -> _Claim | None:
    """None where another request has the key, or is just committing its answer."""
    hours = settings.IDEMPOTENCY_KEY_HOURS
    given: dict[str, Any] = {
        "user": user.pk,
        "key": key,
        "fingerprint": fingerprint,
        "kept": timedelta(hours=hours) if hours else None,
        "claim": timedelta(seconds=CLAIM_SECONDS),
    }
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{WAIT_SECONDS}s"])
            cursor.execute(CLAIM, given)
            row = cursor.fetchone()
            cursor.execute("SET LOCAL lock_timeout TO DEFAULT")
    except OperationalError as exc:
        if isinstance(exc.__cause__, LockNotAvailable):
            return None
        raise
    return _Claim(*row) if row else None
