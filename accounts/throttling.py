"""Brute-force protection: attempts are counted in PostgreSQL, before the secret is checked.

Login failures are counted for the address, for the account and for the pair. The account's count stops
distributed attacks, but would let strangers lock its user out; so it does not apply to an address from which
the account has logged in before. Nonexistent accounts are counted alike, so that a rejection discloses
nothing. A success returns its attempt.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from django.conf import settings
from django.db import connection
from django.db.models import F, Value
from django.db.models.functions import Lower

from accounts.models import AttemptCount, Session
from comfyserve.api.clients import network
from comfyserve.api.errors import LimitExceeded

COUNT = """
INSERT INTO accounts_attemptcount AS a (key, count, ends_at)
VALUES (%(key)s, 1, now() + %(seconds)s * interval '1 second')
ON CONFLICT (key) DO UPDATE SET
    count = CASE WHEN a.ends_at <= now() THEN 1 ELSE a.count + 1 END,
    ends_at = CASE WHEN a.ends_at <= now() THEN EXCLUDED.ends_at ELSE a.ends_at END
RETURNING count, ceil(extract(epoch FROM ends_at - now()))::int
"""


@dataclass(frozen=True)
class Window:
    limit: int
    seconds: int


FROM_ADDRESS = Window(100, 900)  # failures from one address, for any account
AT_ACCOUNT = Window(100, 3600)  # failures of one account, from all addresses it has not used before
FROM_ADDRESS_AT_ACCOUNT = Window(10, 900)
REGISTRATIONS_OF_ACCOUNT = Window(5, 3600)
RESETS_FROM_ADDRESS = Window(20, 3600)
RESETS_OF_ACCOUNT = Window(3, 3600)  # e-mails
RECORDED_REFUSALS_PER_ADDRESS = Window(20, 3600)  # rows in the audit log
RECORDED_REFUSALS = Window(300, 3600)


class Attempt:
    """One login attempt; `succeeded()` removes it from the counts."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys

    def succeeded(self) -> None:
        pair, *others = self.keys
        AttemptCount.objects.filter(key=pair).delete()
        AttemptCount.objects.filter(key__in=others, count__gt=0).update(count=F("count") - 1)


@contextmanager
def login_attempt(*, email: str, address: str) -> Iterator[Attempt]:
    """Wraps a password check. LimitExceeded before it after too many attempts."""
    account, place = _account(email), network(address)
    pair = f"login:{account}:{place}"
    keys = [pair, f"login:{place}"]
    _count(f"login:{place}", FROM_ADDRESS)
    _count(pair, FROM_ADDRESS_AT_ACCOUNT)
    if not _known(email, address):
        keys.append(f"login:{account}")
        _count(f"login:{account}", AT_ACCOUNT)
    yield Attempt(keys)


def registration(*, email: str, address: str) -> None:
    per_address = settings.REGISTRATIONS_PER_HOUR
    if per_address:
        _count(f"register:{network(address)}", Window(per_address, 3600))
        _count(f"register:{_account(email)}", REGISTRATIONS_OF_ACCOUNT)


def password_reset(*, email: str, address: str) -> None:
    _count(f"reset:{network(address)}", RESETS_FROM_ADDRESS)
    _count(f"reset:{_account(email)}", RESETS_OF_ACCOUNT)


def should_record_refusal(*, address: str) -> Literal["yes", "last", "no"]:
    """Whether a rejected login is recorded in the audit log: limited per address, and in total."""
    windows = [(f"told:{network(address)}", RECORDED_REFUSALS_PER_ADDRESS), ("told", RECORDED_REFUSALS)]
    recorded: Literal["yes", "last"] = "yes"
    for key, window in windows:
        count, _ = _counted(key, window)
        if count > window.limit:
            return "no"  # and not counted in the wider window
        if count == window.limit:
            recorded = "last"
    return recorded


def _known(email: str, address: str) -> bool:
    """Whether this account has logged in from this address before."""
    lowered = Lower("user__email")
    mine = Session.objects.alias(lowered=lowered).filter(lowered=Lower(Value(email)))
    return mine.filter(address=address).exists()


def _account(email: str) -> str:
    # Equivalent spellings share a counter: İ casefolds to i with a combining dot.
    plain = unicodedata.normalize("NFKC", email).casefold().replace("\u0307", "")
    return hashlib.sha256(plain.encode()).hexdigest()[:32]


def _counted(key: str, window: Window) -> tuple[int, int]:
    """(attempts in this window including this one, seconds until it ends)."""
    with connection.cursor() as cursor:
        cursor.execute(COUNT, {"key": key, "seconds": window.seconds})
        count, seconds_left = cursor.fetchone()
    return count, seconds_left


def _count(key: str, window: Window) -> None:
    count, seconds_left = _counted(key, window)
    if count > window.limit:
        raise LimitExceeded(
            f"Too many attempts. Try again in {seconds_left} seconds.",
            headers={"Retry-After": str(max(1, seconds_left))},
        )
