"""Schedules fleet-wide duties, each run by one worker at a time and spaced by the database clock.

One row per duty records when it is due next. The worker that finds it due advances the row and runs the duty,
so it runs once per interval regardless of fleet size. No lock is held meanwhile: a worker that dies or hangs
costs one interval, and every duty is safe to run twice concurrently.
"""

from __future__ import annotations

from collections.abc import Mapping

from django.db import connection

_TAKE_DUE = """
WITH wanted AS (
    SELECT * FROM unnest(%(names)s::varchar[], %(seconds)s::float[]) AS w (name, seconds)
), due AS (
    SELECT d.name FROM workflows_duty d JOIN wanted w USING (name)
    WHERE due_at <= statement_timestamp()
        OR due_at > statement_timestamp() + make_interval(secs => w.seconds + 1)  -- the clock was set back
    FOR UPDATE OF d SKIP LOCKED
), again AS (
    UPDATE workflows_duty d SET due_at = statement_timestamp() + make_interval(secs => w.seconds)
    FROM due JOIN wanted w USING (name) WHERE d.name = due.name RETURNING d.name
), first AS (
    INSERT INTO workflows_duty (name, due_at)
    SELECT w.name, statement_timestamp() + make_interval(secs => w.seconds) FROM wanted w
    WHERE NOT EXISTS (SELECT FROM workflows_duty d WHERE d.name = w.name)
    ON CONFLICT DO NOTHING RETURNING name
)
SELECT name FROM again UNION ALL SELECT name FROM first
"""


def take_due(intervals: Mapping[str, float]) -> set[str]:
    """Claim and return the duties that are due. One statement. `intervals`: seconds between runs, by name."""
    with connection.cursor() as cursor:
        cursor.execute(_TAKE_DUE, {"names": list(intervals), "seconds": list(intervals.values())})
        return {row[0] for row in cursor.fetchall()}
