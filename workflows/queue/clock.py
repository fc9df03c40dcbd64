"""Corrects stored times that lie too far in the future because the database's clock was set back.

Leases, holds and due times are written and judged by PostgreSQL's clock, so that a worker's wrong clock
does no harm. If the database's clock is set back, a dead worker would keep its claims for that much longer.
If it is set forward, everything is due early, and the reaper lets every live worker renew first.
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
    """Correct times that lie too far in the future; return the number of rows changed."""
    given = {"lease": settings.LEASE_SECONDS, "hold": LONGEST_HOLD, "tolerance": TOLERANCE}
    return sum(rows.execute(statement, given) for statement in _STATEMENTS)
