"""Brings times of the database that lie too far ahead, because its clock was set back, within their span.

Leases, holds and due times are written and judged by PostgreSQL's clock, so that a wrong clock of a worker
does no harm. If that clock is set back itself, a dead worker would keep its claims for as much longer. If it
is set forward, everything is due early, and the reaper lets every live worker renew first.
"""

from __future__ import annotations

from django.conf import settings

from comfyserve.db import rows

LONGEST_HOLD = 60.0  # seconds of backoff, at most
TOLERANCE = 2.0  # seconds

_STATEMENTS = (
    """
    WITH far AS (
        SELECT id FROM workflows_execution
        WHERE claim_token IS NOT NULL
            AND lease_expires_at > now() + make_interval(secs => %(lease)s + %(tolerance)s)
        FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE workflows_execution e SET lease_expires_at = now() + make_interval(secs => %(lease)s)
    FROM far WHERE e.id = far.id
    """,
    """
    WITH far AS (
        SELECT id FROM workflows_execution
        WHERE status = 'pending' AND held = 'backoff'
            AND held_until > now() + make_interval(secs => %(hold)s + %(tolerance)s)
        FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE workflows_execution e SET held_until = now() FROM far WHERE e.id = far.id
    """,
    """
    UPDATE workflows_worker SET heartbeat_at = now()
    WHERE heartbeat_at > now() + make_interval(secs => %(tolerance)s)
    """,
    *(
        f"""
        WITH far AS (
            SELECT id FROM {table}
            WHERE state = 'waiting' AND tries = 0 AND due_at > now() + make_interval(secs => %(tolerance)s)
            FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE {table} d SET due_at = now() FROM far WHERE d.id = far.id
        """  # noqa: S608  (the names are constants)
        for table in ("workflows_delivery", "workflows_outputdelivery")
    ),
)


def pull_back() -> int:
    """Bring times that lie too far ahead within their span; returns how many rows were changed."""
    given = {"lease": settings.LEASE_SECONDS, "hold": LONGEST_HOLD, "tolerance": TOLERANCE}
    return sum(rows.execute(statement, given) for statement in _STATEMENTS)
