"""Counters and histograms for `/metrics/`: written here, read and explained by `health`.

A metric grows by inserting `Delta` rows, so that writers never contend for one hot row. Deltas caused by a
status change are inserted in its transaction, so the metrics are as accurate as the rows they count. What may
be lost with its process (latencies, model loads) is gathered in memory and written every few seconds. The
sweep folds deltas into `Tally`, one row per bucket of each metric, so that the cost of reading does not grow
with the number of executions.
"""

from __future__ import annotations

import atexit
import logging
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from django.db import DatabaseError, InterfaceError, connection, transaction

from comfyserve.db import connections, rows
from comfyserve.db.locks import AdvisoryLock
from workflows.models import Delta, Tally

logger = logging.getLogger(__name__)

FOLD_AT_ONCE = 50_000  # deltas per fold
FLUSH_SECONDS = 5.0
LAST_TRIES = 3  # when the process exits
MAX_KINDS = 20  # workflow kinds with metrics of their own: the first ones seen
OTHER = "other"

SECONDS_TO_HOURS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
MILLISECONDS_UP = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Key = tuple[str, tuple[str, ...], int]  # (metric, labels, bucket)


@dataclass(frozen=True)
class Metric:
    """`labels` name the elements of `Delta.labels`; a histogram has `bounds`, upper and inclusive."""

    about: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def type(self) -> Literal["counter", "histogram"]:
        return "histogram" if self.bounds else "counter"


METRICS = {
    "executions_submitted": Metric("Executions accepted", ("priority",)),
    "executions_ended": Metric("Executions that ended", ("status", "priority")),
    "execution_wait_seconds": Metric(
        "Time from submission to start in ComfyUI, of ended executions", ("kind", "priority"),
        SECONDS_TO_HOURS,
    ),
    "execution_run_seconds": Metric(
        "Time from start in ComfyUI to the end, of completed executions", ("kind",), SECONDS_TO_HOURS
    ),
    "execution_failures": Metric("Failed executions by cause", ("cause",)),
    "executions_taken_back": Metric("Executions requeued", ("cause",)),
    "lease_losses": Metric("Claims that expired because workers did not renew them", ("how",)),
    "model_loads": Metric("Runs of a node that loads a model, without cache hits", ("type",)),
    "model_swaps": Metric("Model loads that replaced another model of the same type", ("type",)),
    "webhook_deliveries": Metric("Attempts to deliver a webhook", ("result",)),
    "http_request_seconds": Metric(
        "API latency from request to response", ("method", "route", "code"), MILLISECONDS_UP
    ),
    "rate_limit_skipped": Metric("Requests allowed without counting because Redis was unavailable"),
}  # fmt: skip


# -- written in the transaction of the change -----------------------------------------------------------
def note_ended(ids: Sequence[UUID]) -> None:
    """Count those of `ids` that have ended. Call it once, in the transaction that ends them."""
    rows.execute(_ENDED_SQL, COUNT_ENDED_PARAMETERS | {"ids": list(ids)})


# Counts the rows of `new`, a CTE before it.
SUBMITTED_SQL = """
    INSERT INTO workflows_delta (metric, labels, bucket, count, sum)
    SELECT 'executions_submitted', ARRAY[%(priority)s]::varchar[], 0, count(*), count(*) FROM new
"""

# Counts the rows of `ended`, a CTE with ENDED_COLUMNS of the statement that this is part of.
COUNT_ENDED_SQL = """
    INSERT INTO workflows_delta (metric, labels, bucket, count, sum)
    SELECT 'executions_ended', ARRAY[status, priority], 0, 1, 1 FROM ended
    UNION ALL
    SELECT 'execution_wait_seconds', ARRAY[kind, priority],
        (SELECT count(*) FROM unnest(%(bounds)s::float[]) bound WHERE bound < waited), 1, waited
    FROM ended WHERE waited IS NOT NULL
    UNION ALL
    SELECT 'execution_run_seconds', ARRAY[kind],
        (SELECT count(*) FROM unnest(%(bounds)s::float[]) bound WHERE bound < ran), 1, ran
    FROM ended WHERE status = 'completed'
    UNION ALL
    SELECT 'execution_failures', ARRAY[coalesce(failure_cause, 'other')], 0, 1, 1
    FROM ended WHERE status = 'failed'
"""
ENDED_COLUMNS = """
    status, priority, kind, failure_cause, extract(epoch FROM started_at - created_at) AS waited,
    extract(epoch FROM completed_at - started_at) AS ran
"""
COUNT_ENDED_PARAMETERS = {"bounds": list(SECONDS_TO_HOURS)}

_ENDED_SQL = f"""
    WITH ended AS (
        SELECT {ENDED_COLUMNS} FROM workflows_execution
        WHERE id = ANY(%(ids)s) AND status IN ('completed', 'failed', 'cancelled')
    ) {COUNT_ENDED_SQL}
"""  # noqa: S608


def add(metric: str, *labels: str, count: int = 1) -> None:
    """Increment a counter in the caller's transaction."""
    if count:
        Delta.objects.create(metric=metric, labels=list(labels), count=count, sum=count)


# -- buffered in memory -----------------------------------------------------------------------------------
class Gathered:
    """Metrics of this process that are not written yet. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._figures: dict[Key, list[float]] = defaultdict(lambda: [0, 0.0])

    def gather(self, metric: str, labels: tuple[str, ...], *, value: float, count: int = 1) -> None:
        bucket = bisect_left(METRICS[metric].bounds, value)
        self._merge({(metric, labels, bucket): [count, value]})

    def flush(self) -> None:
        """Write them all. On DatabaseError they are kept for the next time."""
        with self._lock:
            figures, self._figures = self._figures, defaultdict(lambda: [0, 0.0])
        if not figures:
            return
        try:
            with connections.step():
                Delta.objects.bulk_create(
                    Delta(metric=metric, labels=list(labels), bucket=bucket, count=int(count), sum=total)
                    for (metric, labels, bucket), (count, total) in figures.items()
                )
        except (DatabaseError, InterfaceError):
            self._merge(figures)
            raise

    def _merge(self, figures: dict[Key, list[float]]) -> None:
        with self._lock:
            for key, (count, total) in figures.items():
                entry = self._figures[key]
                entry[0] += count
                entry[1] += total


_gathered = Gathered()
_last_model: dict[str, str] = {}  # type -> name; a worker process serves one ComfyUI


def count(metric: str, *labels: str, by: int = 1) -> None:
    """Increment a counter with a delay: lost if the process is killed within FLUSH_SECONDS."""
    _gathered.gather(metric, labels, value=by, count=by)


def observe(metric: str, *labels: str, value: float) -> None:
    """Add an observation to a histogram with a delay, as `count` does."""
    _gathered.gather(metric, labels, value=value)


def model_loaded(*, name: str, type: str) -> None:  # noqa: A002  (as in models_used)
    """Count that ComfyUI ran the node that loads this model."""
    count("model_loads", type)
    if _last_model.get(type, name) != name:
        count("model_swaps", type)
    _last_model[type] = name


class Flusher:
    """The thread that writes this process's metrics, and folds deltas unless another process does."""

    def __init__(self, *, before: Callable[[], None] | None = None) -> None:
        """`before` is called before each write, to collect what is counted elsewhere."""
        self._before = before
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="statistics", daemon=True)

    def start(self) -> None:
        self._thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Stop the thread and write what is left."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopping.wait(FLUSH_SECONDS):
            self._write()
        # The last chance to write: retry, since an idle connection may have broken unnoticed.
        any(self._write() for _ in range(LAST_TRIES))

    def _write(self) -> bool:
        """False: the database is unavailable, and the metrics are kept in memory."""
        try:
            if self._before is not None:
                self._before()
            _gathered.flush()
            with connections.step():
                fold()
        except (DatabaseError, InterfaceError) as exc:
            logger.warning("statistics are not written, the database is unavailable: %s", exc)
            return False
        return True


# -- folding and reading -----------------------------------------------------------------------------------
def fold() -> int:
    """Fold deltas into tallies; return how many. 0 if another session is folding. Safe to run anywhere."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, 0)", [AdvisoryLock.FOLDING])
        if not cursor.fetchone()[0]:
            return 0
        cursor.execute(
            """
            WITH taken AS (
                DELETE FROM workflows_delta WHERE id = ANY(ARRAY(SELECT id FROM workflows_delta LIMIT %s))
                RETURNING metric, labels, bucket, count, sum
            )
            SELECT metric, labels, bucket, sum(count)::bigint, sum(sum), count(*) FROM taken GROUP BY 1, 2, 3
            """,
            [FOLD_AT_ONCE],
        )
        rows = cursor.fetchall()
        if not rows:
            return 0
        figures = _bounded(_known_kinds(), ((row[0], tuple(row[1]), row[2], row[3], row[4]) for row in rows))
        cursor.executemany(
            """
            INSERT INTO workflows_tally (metric, labels, bucket, count, sum) VALUES (%s, %s, %s, %s, %s)
            ON CONFLICT (metric, labels, bucket) DO UPDATE
            SET count = workflows_tally.count + excluded.count, sum = workflows_tally.sum + excluded.sum
            """,
            [(m, list(labels), bucket, n, total) for (m, labels, bucket), (n, total) in figures.items()],
        )
    return sum(row[5] for row in rows)


def read() -> dict[Key, tuple[int, float]]:
    """All current metrics: (count, sum) of each bucket. One statement."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT metric, labels, bucket, count, sum, true FROM workflows_tally
            UNION ALL
            SELECT metric, labels, bucket, sum(count)::bigint, sum(sum), false FROM workflows_delta
            GROUP BY 1, 2, 3
            """
        )
        rows = [(row[0], tuple(row[1]), *row[2:]) for row in cursor.fetchall()]
    known = {row[1][0] for row in rows if row[5] and _has_kind(row[0])}
    return _bounded(known, (row[:5] for row in rows))


def _known_kinds() -> set[str]:
    """The workflow kinds with metrics of their own."""
    with_kind = [metric for metric in METRICS if _has_kind(metric)]
    return set(
        Tally.objects.filter(metric__in=with_kind).values_list("labels__0", flat=True).distinct()
    )  # fmt: skip


def _has_kind(metric: str) -> bool:
    return metric in METRICS and METRICS[metric].labels[:1] == ("kind",)


def _bounded(
    known: set[str], rows: Iterable[tuple[str, tuple[str, ...], int, int, float]]
) -> dict[Key, tuple[int, float]]:
    """Sum the rows by key, with kinds beyond the first MAX_KINDS combined as OTHER."""
    figures: dict[Key, tuple[int, float]] = {}
    for metric, labels, bucket, n, total in rows:
        if _has_kind(metric) and labels[0] not in known:
            if len(known) < MAX_KINDS:
                known.add(labels[0])
            else:
                labels = (OTHER, *labels[1:])
        before = figures.get((metric, labels, bucket), (0, 0.0))
        figures[metric, labels, bucket] = (before[0] + n, before[1] + total)
    return figures
