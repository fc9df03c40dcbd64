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
from django.utils import timezone

from accounts import quotas
from accounts.models import User, UserLimits
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
OVERLAP = timedelta(minutes=5)  # rows that old are committed, and clocks of other machines are this close
BEFORE_SECONDS = 600.0  # how long the sum of what was there before is used
SHARE = 20  # the sum is cached for this multiple of the time it took: at most a twentieth is spent counting
MAX_KNOWN = 10_000  # users

_graphs: dict[int, tuple[float, int]] = {}  # user -> (valid until, bytes)
_before: dict[int, tuple[float, datetime, int]] = {}  # user -> (valid until, moment, bytes from before it)


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


def check(*, user: User, adding: int) -> None:
    """LimitExceeded if so many more bytes exceed the quota. Counts all rows only where that may be so."""
    try:
        quotas.check_storage(user=user, used=at_most(user.pk), adding=adding)
    except LimitExceeded:
        quotas.check_storage(user=user, used=of(user.pk), adding=adding)


def at_most(user_id: int) -> int:
    """An upper bound, at a cost that does not grow with what the user has.

    What was there before is counted rarely, and stays in the sum when it is deleted. A new file that shares
    the bytes of another is counted again.
    """
    until, moment, before = _before.get(user_id, (0.0, timezone.now(), 0))
    if time.monotonic() >= until:
        moment = _now() - OVERLAP
        before = _sum(f"SELECT ({FILES_BEFORE}) + ({GRAPHS_BEFORE})", user_id, moment, user_id, moment)
        _remember(_before, user_id, (time.monotonic() + BEFORE_SECONDS, moment, before))
    rows = f"SELECT ({FILES_SINCE}) + ({GRAPHS_SINCE}) + ({USER_DATA}) + ({APPS})"
    return before + _sum(rows, user_id, moment, user_id, moment, user_id, user_id)


def _now() -> datetime:
    """By the clock that is behind: ours, which dates files, or PostgreSQL's, which dates executions."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT least(%s, statement_timestamp())", [timezone.now()])
        moment: datetime = cursor.fetchone()[0]
        return moment


def left(user_id: int) -> int | None:
    """Bytes until the user's quota; None where there is none."""
    if not _any_limit():
        return None
    limits = UserLimits.objects.filter(user_id=user_id).values_list("storage_bytes", flat=True).first()
    most = settings.QUOTA_STORAGE_BYTES if limits is None else limits
    return max(0, most - of(user_id)) if most else None


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
