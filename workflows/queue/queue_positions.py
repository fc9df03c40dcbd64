"""Positions in the queue, as users see them. The order itself is in `scheduling`."""

from __future__ import annotations

from uuid import UUID

from accounts.models import User
from comfyserve.db import rows
from comfyserve.db.rows import Columns
from workflows.models import Execution
from workflows.presentation import selectors

EXACT_UP_TO = 10_000  # deeper positions are all reported as this number plus one


def _positions(which: str) -> str:
    """A query of the ids and positions of the pending executions that meet the condition `which`."""
    return f"""
        WITH asked AS (
            SELECT id, turn, created_at, claim_token, claimed_at, held FROM workflows_execution
            WHERE {which} AND status = 'pending'
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
            END AS position
        FROM asked
    """  # noqa: S608  (no value of a user in it)


_EXECUTION = Columns(Execution, "e")
_OF_SQL = _positions("id = ANY(%(ids)s)")
_WITH_POSITION_SQL = f"""
    SELECT {_EXECUTION}, CASE WHEN e.status = 'pending' THEN
        (SELECT position FROM ({_positions("id = e.id")}) AS positions) END
    FROM workflows_execution e WHERE e.id = %(id)s
"""  # noqa: S608  (no value of a user in it)


def of(ids: list[UUID]) -> dict[UUID, int]:
    """Queue positions of those of `ids` that are pending, in one query; 1 is next.

    Claimed executions that have not started come before all unclaimed ones. Held executions do not count for
    others and get the position they would have if released. Exact up to EXACT_UP_TO.
    """
    if not ids:
        return {}
    return dict(rows.prepared(_OF_SQL, {"ids": ids, "limit": EXACT_UP_TO}).fetchall())


def with_execution(*, user: User, execution_id: str) -> tuple[Execution, int | None]:
    """The user's execution and, if it is pending, its position, in one query. Raises NotFound like
    `selectors.execution_of`.
    """
    parameters = {"id": selectors.parsed_id(execution_id), "limit": EXACT_UP_TO}
    row = rows.prepared(_WITH_POSITION_SQL, parameters).fetchone()
    if row is None or (execution := _EXECUTION.read(row)).user_id != user.pk:
        raise selectors.not_found(execution_id)
    return execution, row[-1]
