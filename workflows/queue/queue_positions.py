"""Positions in the queue, as users see them. The order itself is in `scheduling`."""

from __future__ import annotations

from uuid import UUID

from comfyserve.db import rows

EXACT_UP_TO = 10_000  # deeper positions are all reported as this number plus one


def of(ids: list[UUID]) -> dict[UUID, int]:
    """Queue positions of those of `ids` that are pending, in one query; 1 is next.

    Claimed executions that have not started come before all unclaimed ones. Held executions do not count for
    others and get the position they would have if released. Exact up to EXACT_UP_TO.
    """
    if not ids:
        return {}
    cursor = rows.prepared(
        """
        WITH asked AS (
            SELECT id, turn, created_at, claim_token, claimed_at, held FROM workflows_execution
            WHERE id = ANY(%(ids)s) AND status = 'pending'
        ), staged AS (
            SELECT id, row_number() OVER (ORDER BY claimed_at) AS n FROM workflows_execution
            WHERE claim_token IS NOT NULL AND status = 'pending'
        ), waiting AS (
            SELECT id, turn, created_at, row_number() OVER (ORDER BY turn, created_at) AS n
            FROM (SELECT id, turn, created_at FROM workflows_execution
                  WHERE status = 'pending' AND claim_token IS NULL AND held IS NULL
                    AND turn <= (SELECT max(turn) FROM asked)
                  ORDER BY turn, created_at LIMIT %(limit)s) w
        )
        SELECT asked.id, CASE
            WHEN asked.claim_token IS NOT NULL THEN (SELECT n FROM staged WHERE staged.id = asked.id)
            ELSE (SELECT count(*) FROM staged) + coalesce(
                (SELECT n FROM waiting WHERE waiting.id = asked.id),
                CASE WHEN asked.held IS NOT NULL
                    THEN (SELECT count(*) FROM waiting
                          WHERE (waiting.turn, waiting.created_at) < (asked.turn, asked.created_at)) + 1
                    ELSE %(limit)s + 1 END)
            END
        FROM asked
        """,
        {"ids": ids, "limit": EXACT_UP_TO},
    )
    return dict(cursor.fetchall())
