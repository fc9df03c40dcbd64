"""Work of the whole fleet that one worker at a time does: which of it is due, spaced by the database's clock.

A row for each duty says when it is due next. Whoever finds it due moves it on and does the work, so a fleet
of any size does it once an interval. No lock is held meanwhile: a worker that dies or hangs on a duty costs
one interval, and every duty is safe to do twice at once.
"""

from __future__ import annotations

from collections.abc import Mapping

from django.db import connection

_TAKE_DUE = """
WITH wanted AS (
    SELECT * FROM unnest(%(names)s::varchar[], %(seconds)s::float[]) AS w (name, seconds)
), due AS (
    SELECT name FROM workflows_duty
    WHERE name = ANY(%(names)s) AND due_at <= statement_timestamp() FOR UPDATE SKIP LOCKED
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
    """Which of these duties (name to seconds between two times) the caller is to do now. One statement."""
    with connection.cursor() as cursor:
        cursor.execute(_TAKE_DUE, {"names": list(intervals), "seconds": list(intervals.values())})
        return {row[0] for row in cursor.fetchall()}
