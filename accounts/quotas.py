"""Per-user quotas: executions waiting, per day and running at once, and bytes of storage.

Defaults are settings; a row of UserLimits overrides them for one user. 0 is no limit. The rules are here;
callers count the usage, since they know their tables.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import connection

from accounts.models import User, UserLimits
from comfyserve.api.errors import Detail, LimitExceeded
from comfyserve.db import rows
from comfyserve.db.locks import AdvisoryLock

TAKE = """
INSERT INTO accounts_dailyuse AS d (user_id, day, executions) VALUES (%(user)s, %(day)s, %(count)s)
ON CONFLICT (user_id, day) DO UPDATE SET executions = d.executions + %(count)s
RETURNING executions
"""


def running_at_once(*, user_id: int) -> int | None:
    """Concurrent executions of the user; None is no limit. Not a rejection: the scheduler holds the others
    back."""
    found = rows.prepared(
        "SELECT executions_running FROM accounts_userlimits WHERE user_id = %s", [user_id]
    ).fetchone()
    return running_at_once_of(found[0] if found else None)


def running_at_once_of(own: int | None) -> int | None:
    """The same, from the limit in the user's row; None if there is none."""
    return (settings.QUOTA_EXECUTIONS_RUNNING if own is None else own) or None


def runs_are_limited(*, user: User) -> bool:
    """Whether `running_at_once` is a number. No query if a request was authenticated."""
    return _limit(user, "executions_running", settings.QUOTA_EXECUTIONS_RUNNING) is not None


def waiting_is_limited(*, user: User) -> bool:
    """Whether `check_submission` uses `waiting`: counting it costs what the user has waiting."""
    return _limit(user, "executions_waiting", settings.QUOTA_EXECUTIONS_WAITING) is not None


def highest_priority(*, user: User) -> str | None:
    """The highest priority that the operator allows the user; None is any."""
    limits: UserLimits | None = getattr(user, "limits", None)
    return (limits.highest_priority or None) if limits else None


def check_submission(*, user: User, waiting: int, adding: int = 1) -> None:
    """LimitExceeded, naming the quota, if the user may not submit `adding` more now; else counts them for
    today.

    Call it in the transaction that creates the execution, with the user's submissions serialised (an advisory
    lock), and with the number of waiting executions: then parallel submissions respect the quota, and the
    day's count is rolled back with the transaction.
    """
    most = _limit(user, "executions_waiting", settings.QUOTA_EXECUTIONS_WAITING)
    if most is not None and waiting + adding > most:
        message = f"Quota exceeded: at most {most} executions may be waiting, and {waiting} are."
        raise _refusal(message, "executions_waiting", retry_after=60)
    _count_today(user, count=adding)


def check_storage(*, user: User, used: int, adding: int) -> None:
    """LimitExceeded if `adding` bytes to `used` would exceed the user's storage quota.

    Under `lock_storage`, in the transaction that records the bytes, parallel uploads respect the quota.
    """
    most = _limit(user, "storage_bytes", settings.QUOTA_STORAGE_BYTES)
    if most is not None and used + adding > most:
        message = f"Quota exceeded: at most {most} bytes may be stored; {used} are, and this adds {adding}."
        raise _refusal(message, "storage_bytes", retry_after=None)


def storage_is_limited(*, user: User) -> bool:
    """Whether usage needs to be counted at all."""
    return _limit(user, "storage_bytes", settings.QUOTA_STORAGE_BYTES) is not None


LOCK_STORAGE_SQL = (
    f"pg_advisory_xact_lock({int(AdvisoryLock.STORAGE)}, mod(%(user_id)s::bigint, 2147483648)::int)"
)


def lock_storage(*, user: User) -> None:
    """Serialises checks of and additions to the user's storage until the transaction ends."""
    rows.prepared(f"SELECT {LOCK_STORAGE_SQL}", {"user_id": user.pk})


def _count_today(user: User, *, count: int) -> None:
    most = _limit(user, "executions_per_day", settings.QUOTA_EXECUTIONS_PER_DAY)
    if most is None:
        return
    now = datetime.now(UTC)
    with connection.cursor() as cursor:
        cursor.execute(TAKE, {"user": user.pk, "day": now.date(), "count": count})
        taken = cursor.fetchone()[0]
    if taken > most:
        midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
        message = f"Quota exceeded: at most {most} executions may be submitted a day (UTC)."
        raise _refusal(message, "executions_per_day", retry_after=int((midnight - now).total_seconds()) + 1)


def _refusal(message: str, quota: str, retry_after: int | None) -> LimitExceeded:
    headers = {"Retry-After": str(retry_after)} if retry_after else {}
    detail = Detail("QUOTA_EXCEEDED", f"Quota '{quota}' is used up")
    return LimitExceeded(message, details=[detail], headers=headers)


def _limit(user: User, name: str, default: int | None) -> int | None:
    """No query if a request was authenticated: the limits were loaded with the user."""
    limits: UserLimits | None = getattr(user, "limits", None)
    own = getattr(limits, name) if limits else None
    return (default if own is None else own) or None
