"""The numbers of `/metrics/`: current state and counters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from django.db import connection

from comfyserve.api.errors import Unavailable
from comfyserve.db import connections
from workflows.fleet import overview
from workflows.metrics import store
from workflows.metrics.store import Key

from . import system
from .probing import NoAnswer, Probe, Shared

LIMIT_SECONDS = 2.0


@dataclass(frozen=True)
class Waiting:
    """The queue of one priority."""

    number: int = 0
    oldest_seconds: float = 0.0


@dataclass(frozen=True)
class Figures:
    counted: dict[Key, tuple[int, float]]  # (count, sum) by metric, labels and bucket
    running: int
    waiting: dict[str, Waiting]
    workers: dict[str, int]  # by fleet.Row.status
    gpus: list[dict[str, Any]]
    host: dict[str, float] = field(default_factory=system.host_figures)

    def total(self, metric: str) -> int:
        """A counter over all its labels."""
        return sum(count for (name, _, _), (count, _) in self.counted.items() if name == metric)

    def mean(self, metric: str) -> float | None:
        """The mean of a histogram over all its labels; None without observations."""
        found = [entry for (name, _, _), entry in self.counted.items() if name == metric]
        number = sum(count for count, _ in found)
        return round(sum(total for _, total in found) / number, 3) if number else None


def _read() -> Figures:
    with connections.step():
        rows = overview.rows()
        here = [row for row in rows if not overview.has_left(row)]
        return Figures(
            counted=store.read(),
            running=_running(),
            waiting=_waiting(),
            workers=dict(Counter(row.status for row in here)),
            gpus=overview.gpus(row.worker for row in here if not row.silent),
        )


def _running() -> int:
    """Running executions are claimed: the small index of claims has them all."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM workflows_execution WHERE claim_token IS NOT NULL AND status = 'running'"
        )
        return int(cursor.fetchone()[0])


def _waiting() -> dict[str, Waiting]:
    """Counted in the index of waiting executions: the cost depends on the queue, not on the history."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT priority, count(*), extract(epoch FROM now() - min(created_at))::float
            FROM workflows_execution WHERE status = 'pending' GROUP BY priority
            """
        )
        return {priority: Waiting(number, max(0.0, oldest)) for priority, number, oldest in cursor.fetchall()}


_probe = Probe("metrics", _read, limit=LIMIT_SECONDS)
_shared = Shared(_probe.ask)


def now() -> Figures:
    """At most a second old. Unavailable if the database does not respond in time."""
    try:
        return _shared.get()
    except NoAnswer as exc:
        raise Unavailable("The database is not available; try again shortly") from exc


def as_documented(figures: Figures) -> dict[str, Any]:
    """The JSON of the reference."""
    return {
        "cpu_usage_percent": figures.host["cpu_usage_percent"],
        "memory_usage_percent": figures.host["memory_usage_percent"],
        "gpu_usage_percent": system.gpu_usage(figures.gpus),
        "gpu_memory_usage_percent": system.gpu_memory_usage(figures.gpus),
        "disk_usage_percent": figures.host["disk_usage_percent"],
        "active_executions": figures.running,
        "queue_size": sum(waiting.number for waiting in figures.waiting.values()),
        "total_executions": figures.total("executions_submitted"),
        "average_execution_time_seconds": figures.mean("execution_run_seconds"),
    }
