"""How many bytes a user has in storage, as the quota counts them: files, user data, apps, and graphs and
metadata of executions.

It reads tables of other apps with plain SQL, without importing them.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any, TypeVar

from django.conf import settings
from django.db import connection
from django.db.models.functions import Now
from django.utils import timezone

from accounts import quotas
from accounts.models import CountedStorage, User, UserLimits
from comfyserve.api.errors import LimitExceeded
from comfyserve.ttl_cache import TtlCache

T = TypeVar("T")

FILES = """
SELECT COALESCE(sum(size), 0) FROM (SELECT DISTINCT ON (key) size FROM files_file WHERE user_id = %s) AS own
"""
USER_DATA = "SELECT COALESCE(sum(size), 0) FROM files_userdata WHERE user_id = %s"
# Apps and graphs: as they lie on disk, compressed.
APPS = """
SELECT COALESCE(sum(pg_column_size(v.workflow) + pg_column_size(v.prompt) + pg_column_size(v.inputs)), 0)
FROM apps_catalog_appversion v JOIN apps_catalog_app a ON a.id = v.app_id WHERE a.owner_id = %s
"""
GRAPHS = """
SELECT COALESCE(sum(pg_column_size(g.submitted) + pg_column_size(g.prompt) + pg_column_size(g.extras)
    + pg_column_size(g.output) + COALESCE(pg_column_size(g.inputs), 0)
    + pg_column_size(e.metadata) + pg_column_size(e.metadata_text)), 0)
FROM workflows_graph g JOIN workflows_execution e ON e.id = g.execution_id WHERE e.user_id = %s
"""
# The large ones again, of rows created before or since a moment.
FILES_BEFORE = FILES.replace("user_id = %s", "user_id = %s AND created_at < %s")
FILES_SINCE = "SELECT COALESCE(sum(size), 0) FROM files_file WHERE user_id = %s AND created_at >= %s"
GRAPHS_BEFORE = f"{GRAPHS} AND e.created_at < %s"
GRAPHS_SINCE = f"{GRAPHS} AND e.created_at >= %s"
FILES_BETWEEN, GRAPHS_BETWEEN = f"{FILES_SINCE} AND created_at < %s", f"{GRAPHS_SINCE} AND e.created_at < %s"
OVERLAP = timedelta(minutes=5)  # rows that old are committed, and clocks of other machines are this close
BEFORE_SECONDS = 600.0  # the interval at which a process moves the moment on
FULL_COUNT = timedelta(days=1)  # the interval of full counts, for what operators are shown
SHARE = 20  # the sum is cached for this multiple of the time it took: at most a twentieth is spent counting
MAX_KNOWN = 10_000  # users

_graphs: dict[int, tuple[float, int]] = {}  # user -> (valid until, bytes)
_before: dict[int, tuple[float, CountedStorage]] = {}  # user -> (valid until, row)


def of(user_id: int) -> int:
    rows = f"SELECT ({FILES}) + ({USER_DATA}) + ({APPS})"
    return _sum(rows, user_id, user_id, user_id) + _of_graphs(user_id)


def check_room(*, user: User, adding: int) -> None:
    """LimitExceeded if so many more bytes exceed the user's storage quota.

    Call it in the transaction that records them: until its end, other checks of this user wait.
    """
    if quotas.storage_is_limited(user=user):
        quotas.lock_storage(user=user)
        check(user=user, adding=adding)


def check_early(*, user: User, adding: int) -> None:
    """The same before the bytes are stored, without waiting for others. `check_room` follows with the row."""
    if quotas.storage_is_limited(user=user):
        check(user=user, adding=adding)


def check(*, user: User, adding: int) -> None:
    """LimitExceeded if so many more bytes exceed the quota. Counts all rows only where that may be so."""
    try:
        quotas.check_storage(user=user, used=at_most(user.pk), adding=adding)
    except LimitExceeded:
        quotas.check_storage(user=user, used=of(user.pk), adding=adding)
        _count_before(user.pk)  # the bound was too far above


def at_most(user_id: int) -> int:
    """An upper bound, at a cost that does not grow with what the user has.

    What was there before stays in the sum when it is deleted, until all is counted again. A new file that
    shares the bytes of another is counted again.
    """
    until, before = _before.get(user_id, (0.0, None))
    if before is None or time.monotonic() >= until:
        known = CountedStorage.objects.filter(user_id=user_id).first()
        before = _add_since(known) if known else _count_before(user_id)
    moment = before.moment
    rows = f"SELECT ({FILES_SINCE}) + ({GRAPHS_SINCE}) + ({USER_DATA}) + ({APPS})"
    return before.size + _sum(rows, user_id, moment, user_id, moment, user_id, user_id)


def recent(user_id: int) -> int:
    """An upper bound without what was deleted more than FULL_COUNT ago."""
    latest = CountedStorage.objects.filter(user_id=user_id, counted_at__gt=Now() - FULL_COUNT)
    if not latest.exists():
        _count_before(user_id)
    return at_most(user_id)


def _count_before(user_id: int) -> CountedStorage:
    """Add up all of the user's files and graphs, once for all processes."""
    moment = _now() - OVERLAP
    size = _sum(f"SELECT ({FILES_BEFORE}) + ({GRAPHS_BEFORE})", user_id, moment, user_id, moment)
    return _save(CountedStorage(user_id=user_id, moment=moment, size=size, counted_at=moment))


def _add_since(known: CountedStorage) -> CountedStorage:
    moment = max(known.moment, _now() - OVERLAP)
    between = [known.user_id, known.moment, moment]
    added = _sum(f"SELECT ({FILES_BETWEEN}) + ({GRAPHS_BETWEEN})", *between, *between)
    return _save(
        CountedStorage(
            user_id=known.user_id, moment=moment, size=known.size + added, counted_at=known.counted_at
        )
    )


def _save(row: CountedStorage) -> CountedStorage:
    """Each row is right by itself, so it does not matter which process is the last."""
    CountedStorage.objects.bulk_create(
        [row], update_conflicts=True, unique_fields=["user"], update_fields=["moment", "size", "counted_at"]
    )
    _remember(_before, row.user_id, (time.monotonic() + BEFORE_SECONDS, row))
    return row


def _now() -> datetime:
    """By the clock that is behind: ours, which dates files, or PostgreSQL's, which dates executions."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT least(%s, statement_timestamp())", [timezone.now()])
        moment: datetime = cursor.fetchone()[0]
        return moment


def left(user_id: int, *, exact: bool = False) -> int | None:
    """Bytes until the user's quota, at least so many unless `exact`; None where there is none.

    Exactly means to count all rows: ask for it only before something is refused.
    """
    if not _any_limit():
        return None
    limits = UserLimits.objects.filter(user_id=user_id).values_list("storage_bytes", flat=True).first()
    most = settings.QUOTA_STORAGE_BYTES if limits is None else limits
    if not most:
        return None
    if exact:
        _count_before(user_id)  # so that the bound is close again
    return max(0, most - (of(user_id) if exact else at_most(user_id)))


_any_user_limit = TtlCache(lambda: UserLimits.objects.filter(storage_bytes__gt=0).exists(), seconds=5.0)


def _any_limit() -> bool:
    return bool(settings.QUOTA_STORAGE_BYTES) or _any_user_limit()


def _of_graphs(user_id: int) -> int:
    began = time.monotonic()
    until, known = _graphs.get(user_id, (0.0, 0))
    if began < until:
        return known
    found = _sum(GRAPHS, user_id)
    now = time.monotonic()
    _remember(_graphs, user_id, (now + SHARE * (now - began), found))
    return found


def _remember(known: dict[int, T], user_id: int, value: T) -> None:
    if len(known) >= MAX_KNOWN:
        known.clear()
    known[user_id] = value


def _sum(sql: str, *values: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return int(cursor.fetchone()[0])


def forget() -> None:
    """Clear the caches, for tests."""
    _graphs.clear()
    _before.clear()
    _any_user_limit.forget()
