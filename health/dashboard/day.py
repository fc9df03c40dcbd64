"""Executions that ended in the last day, by hour. A past hour is queried once and cached, so that a refresh
costs only the current one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import connection
from django.utils import timezone

HOURS = 24
SETTLES = timedelta(
    minutes=2
)  # rows may still be added to an hour after its end: by transactions that began in it

_SQL = """
    SELECT date_trunc('hour', completed_at), status, failure_cause, count(*), count(started_at),
        coalesce(extract(epoch FROM sum(started_at - created_at)), 0)::float
    FROM workflows_execution WHERE completed_at >= %s AND completed_at < %s GROUP BY 1, 2, 3
"""


@dataclass
class Hour:
    """`began`: how many of those that ended had started; `waited`: their total waiting seconds."""

    start: datetime
    ended: dict[str, int] = field(default_factory=dict)
    causes: dict[str, int] = field(default_factory=dict)
    began: int = 0
    waited: float = 0.0

    @property
    def mean_wait(self) -> float | None:
        return self.waited / self.began if self.began else None


class Day:
    """Shared by all requests of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over: dict[datetime, Hour] = {}

    def hours(self) -> list[Hour]:
        """The last HOURS hours, oldest first, the current one last. At most one query."""
        now = timezone.now()
        present = now.replace(minute=0, second=0, microsecond=0)
        wanted = [present - timedelta(hours=back) for back in range(HOURS - 1, -1, -1)]
        with self._lock:
            known = {start: self._over[start] for start in wanted if start in self._over}
        missing = [start for start in wanted if start not in known]
        read = _read(missing) if missing else {}
        settled = {start: hour for start, hour in read.items() if start + timedelta(hours=1) + SETTLES < now}
        with self._lock:
            self._over = known | settled
        return [(known | read)[start] for start in wanted]

    def forget(self) -> None:
        """Clear the cache."""
        with self._lock:
            self._over = {}


def _read(starts: list[datetime]) -> dict[datetime, Hour]:
    """From the first of them to the last, in one query."""
    hours = {start: Hour(start) for start in starts}
    with connection.cursor() as cursor:
        cursor.execute(_SQL, [starts[0], starts[-1] + timedelta(hours=1)])
        for start, status, cause, number, began, waited in cursor.fetchall():
            hour = hours.get(start)
            if hour is None:
                continue
            hour.ended[status] = hour.ended.get(status, 0) + number
            if status == "failed":
                hour.causes[cause or "other"] = hour.causes.get(cause or "other", 0) + number
            hour.began += began
            hour.waited += waited
    return hours


def total(hours: Iterable[Hour]) -> Hour:
    """All of them as one; `start` is the first's."""
    found = list(hours)
    whole = Hour(found[0].start)
    for hour in found:
        for status, number in hour.ended.items():
            whole.ended[status] = whole.ended.get(status, 0) + number
        for cause, number in hour.causes.items():
            whole.causes[cause] = whole.causes.get(cause, 0) + number
        whole.began += hour.began
        whole.waited += hour.waited
    return whole


day = Day()
