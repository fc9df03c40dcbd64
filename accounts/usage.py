"""What a user has and uses, for the operator. It reads tables of other apps with plain SQL, without importing
them.

Bounded, however much the user has: only the latest MAX_EXECUTIONS executions are read.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db import connection
from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from accounts import audit, storage_use
from accounts.models import ApiKey, Session, User
from comfyserve.console import html
from comfyserve.console.pages import Facts, Section, Table

DAYS = 14
MAX_EXECUTIONS = 20_000  # executions
Day = tuple[date, int, int, int, float]  # in UTC; submitted, completed, failed, GPU seconds
SHOWN = 20  # sessions, keys and rows of the audit log

BY_DAY = """
WITH latest AS (
    SELECT created_at, status, gpu_seconds FROM workflows_execution
    WHERE user_id = %s AND created_at > now() - make_interval(days => %s) ORDER BY created_at DESC LIMIT %s
)
SELECT (created_at AT TIME ZONE 'UTC')::date, count(*), count(*) FILTER (WHERE status = 'completed'),
    count(*) FILTER (WHERE status = 'failed'), COALESCE(sum(gpu_seconds), 0)
FROM latest GROUP BY 1 ORDER BY 1 DESC
"""
FILES = "SELECT count(*) FROM (SELECT FROM files_file WHERE user_id = %s LIMIT %s) AS first_ones"
MAX_FILES = 10_000  # counted


def with_alive(rows: QuerySet[User]) -> QuerySet[User]:
    """Annotates users with their waiting and running executions. Used in the changelist's query."""
    return rows.annotate(waiting=_alive("pending"), running=_alive("running"))


def _alive(status: str) -> Any:
    executions = apps.get_model("workflows", "Execution")._default_manager
    mine = executions.filter(user_id=OuterRef("pk"), status=status).order_by()
    counted = mine.values("user_id").annotate(number=Count("pk")).values("number")
    return Coalesce(Subquery(counted, output_field=IntegerField()), 0)


def by_day(user: User) -> list[Day]:
    """The last DAYS days, latest first."""
    with connection.cursor() as cursor:
        cursor.execute(BY_DAY, [user.pk, DAYS, MAX_EXECUTIONS])
        found: list[Day] = cursor.fetchall()
    return found


def stored(user: User) -> tuple[int, int]:
    """(bytes in storage, as the quota counts them, perhaps with some deleted in the last day; number of
    files, up to MAX_FILES)."""
    with connection.cursor() as cursor:
        cursor.execute(FILES, [user.pk, MAX_FILES])
        files = int(cursor.fetchone()[0])
    return storage_use.recent(user.pk), files


def sections(user: Any) -> list[Section]:
    """The read-only part of a user's page. `user` comes from `with_alive`."""
    days = by_day(user)
    return [_current(user, days), _executions(days), _sessions(user), _keys(user), _audit(user)]


def _current(user: Any, days: list[Day]) -> Section:
    size, files = stored(user)
    stored_size, more = _of(size, user, "storage_bytes", html.size), "+" if files == MAX_FILES else ""
    return Facts(
        "Uses now",
        [
            ("Executions waiting", _of(user.waiting, user, "executions_waiting")),
            ("Executions running", _of(user.running, user, "executions_running")),
            ("Submitted today", _of(_today(days), user, "executions_per_day")),
            ("Stored", f"at most {stored_size}, in {html.number(files)}{more} files"),
        ],
    )


def _executions(days: list[Day]) -> Section:
    return Table(
        f"Executions of the last {DAYS} days",
        ["Day (UTC)", "Submitted", "Completed", "Failed", "GPU time"],
        [
            (day, html.number(all_), html.number(good), html.number(bad), html.duration(seconds))
            for day, all_, good, bad, seconds in days
        ],
    )


def _sessions(user: User) -> Section:
    found = Session.objects.filter(user=user, ended_at=None).order_by("-created_at")[:SHOWN]
    return Table(
        "Open sessions",
        ["Since", "From", "With", "Until"],
        [
            (html.ago(e.created_at), e.address, e.user_agent, f"{e.expires_at:%Y-%m-%d %H:%M} UTC")
            for e in found
        ],
    )


def _keys(user: User) -> Section:
    found = ApiKey.objects.filter(user=user).order_by("-id")[:SHOWN]
    return Table(
        "API keys",
        ["Begins with", "Name", "Made", "Last used"],
        [(e.prefix, e.name, html.ago(e.created_at), html.ago(e.last_used_at)) for e in found],
    )


def _audit(user: User) -> Section:
    return Table(
        "What happened to this account",
        ["When", "Who", "What", "From", "Note"],
        [(html.ago(e.at), e.who, e.action, e.address or "", e.note) for e in audit.of(user, most=SHOWN)],
    )


def _today(days: list[Day]) -> int:
    return next((number for day, number, *_ in days if day == datetime.now(UTC).date()), 0)


def _of(used: int, user: User, quota: str, said: Any = html.number) -> str:
    """Such as "3 of 10"; without a limit "3"."""
    limits = getattr(user, "limits", None)
    own = getattr(limits, quota) if limits else None
    most = getattr(settings, f"QUOTA_{quota.upper()}") if own is None else own
    return f"{said(used)} of {said(most)}" if most else str(said(used))
