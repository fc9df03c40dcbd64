"""The dashboard's numbers. Each read is bounded: maintained counters, small partial indexes, a sample."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection

from comfyserve.ttl_cache import TtlCache
from health import figures as health_figures
from health import system
from workflows.fleet import overview
from workflows.models import Execution, Priority

from .day import Hour, day

USERS = 8  # users with the most queued executions
LATEST = 8  # executions
SAMPLED_ABOVE = 5_000  # files: beyond that their sizes are sampled
SAMPLED_ROWS = 2_000
STORAGE_SECONDS = 60.0  # between reads of the storage size


@dataclass(frozen=True)
class Storage:
    files: int
    size: int  # bytes
    is_estimated: bool


@dataclass(frozen=True)
class Machine:
    """A worker and its current work."""

    row: overview.Row
    gpus: list[dict[str, Any]]
    models: list[str] | None  # in memory; None: its ComfyUI does not report it
    percentage: float | None  # of its running execution


@dataclass(frozen=True)
class Figures:
    now: health_figures.Figures
    hours: list[Hour]
    machines: list[Machine]
    users: list[tuple[str, int, int]]  # e-mail address, waiting, running
    latest: list[Execution]
    storage: Storage
    disk_total: int
    disk_free: int

    @property
    def waiting(self) -> int:
        return sum(waiting.number for waiting in self.now.waiting.values())

    @property
    def queue(self) -> list[tuple[str, health_figures.Waiting]]:
        """Highest priority first, including empty ones."""
        empty = health_figures.Waiting()
        return [(name, self.now.waiting.get(name, empty)) for name in Priority.values[::-1]]


def _read() -> Figures:
    """Raises Unavailable if the database does not respond."""
    disk = shutil.disk_usage(system.existing(settings.DATA_DIR))
    return Figures(
        now=health_figures.now(),
        hours=day.hours(),
        machines=_machines(),
        users=_users(),
        latest=list(Execution.objects.select_related("user").order_by("-created_at")[:LATEST]),
        storage=cached_storage(),
        disk_total=disk.total,
        disk_free=disk.free,
    )


def _machines() -> list[Machine]:
    rows = [row for row in overview.rows() if not overview.has_left(row)]
    loaded = overview.models_loaded()
    running = [row.worker.running for row in rows if row.worker.running]
    percentages: dict[UUID, float] = dict(
        Execution.objects.filter(id__in=running).values_list("id", "percentage")
    )
    return [
        Machine(
            row=row,
            gpus=row.worker.gpus,
            models=loaded.get(row.name),
            percentage=percentages.get(row.worker.running) if row.worker.running else None,
        )
        for row in rows
    ]


def _users() -> list[tuple[str, int, int]]:
    """Users with the most in the queue: counted in the small index of unfinished executions."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT u.email, q.waiting, q.running FROM (
                SELECT user_id, count(*) FILTER (WHERE status = 'pending') AS waiting,
                    count(*) FILTER (WHERE status = 'running') AS running
                FROM workflows_execution WHERE status IN ('pending', 'running')
                GROUP BY user_id ORDER BY count(*) DESC LIMIT %s) q
            JOIN accounts_user u ON u.id = q.user_id ORDER BY q.waiting + q.running DESC, u.email
            """,
            [USERS],
        )
        return list(cursor.fetchall())


def _storage() -> Storage:
    """Storage size, each content once; beyond SAMPLED_ABOVE files estimated from a sample."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE relname = 'files_file'")
        known = int(cursor.fetchone()[0])
        if known <= SAMPLED_ABOVE:
            each = "SELECT DISTINCT ON (key) size FROM files_file"
            cursor.execute(f"SELECT count(*), coalesce(sum(size), 0) FROM ({each}) f")  # noqa: S608
            files, size = cursor.fetchone()
            return Storage(int(files), int(size), is_estimated=False)
        share = min(100.0, 100.0 * SAMPLED_ROWS / known)
        cursor.execute("SELECT coalesce(avg(size), 0) FROM files_file TABLESAMPLE SYSTEM (%s)", [share])
        return Storage(known, int(cursor.fetchone()[0] * known), is_estimated=True)


cached_storage = TtlCache(_storage, seconds=STORAGE_SECONDS)
current = TtlCache(_read)  # shared by all operators' requests
