"""Lets another user go before an execution that is only staged behind a long run of the same user.

Staging claims an execution early and so fixes its place. Without this, a user with two long workflows would
keep everybody else waiting for both: an execution submitted during the first could not run before the second.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import connection

from comfyserve.db import rows

from . import scheduling
from .claims import Claim

TIE_SECONDS = 0.001  # of virtual time at weight 1: at equal turns the other user goes first

# How far the staged execution would move if it had not been claimed yet: behind what its user was served.
_SERVED_SQL = scheduling.SERVED_SQL.replace(
    "claimed_at IS NOT NULL", "claimed_at IS NOT NULL AND id <> %(staged)s"
)
_SHIFT_SQL = f"""
    SELECT greatest(0, max(s.start + (s.finish - s.start) * s.weight / %(weight)s) - staged.start) AS shift
    FROM ({_SERVED_SQL}) AS s, workflows_execution staged WHERE staged.id = %(staged)s GROUP BY staged.start
"""  # noqa: S608

_OVERTAKEN_SQL = f"""
    SELECT EXISTS (
        SELECT FROM workflows_execution waiting, workflows_execution staged, ({_SHIFT_SQL}) AS moved
        WHERE staged.id = %(staged)s AND staged.claim_token = %(token)s AND staged.status = 'pending'
          AND waiting.status = 'pending' AND waiting.claim_token IS NULL AND waiting.held IS NULL
          AND waiting.user_id <> %(user)s AND %(worker)s::varchar <> ALL(waiting.excluded || waiting.lacking)
          AND waiting.turn <= staged.turn + moved.shift)
"""  # noqa: S608

_STEP_BACK_SQL = f"""
    WITH before AS (
        SELECT e.start, moved.shift + %(tie)s / %(weight)s AS shift
        FROM workflows_execution e, ({_SHIFT_SQL}) AS moved WHERE e.id = %(staged)s
    ), moved AS (
        UPDATE workflows_execution e SET claimed_at = NULL,
            turn = e.turn + before.shift, start = e.start + before.shift, finish = e.finish + before.shift
        FROM before WHERE e.id = %(staged)s RETURNING before.start
    )
    INSERT INTO workflows_flow AS f (user_id, priority, start, finish)
    SELECT %(user)s, %(priority)s, start, start FROM moved
    ON CONFLICT (user_id, priority) DO UPDATE
    SET start = greatest(f.start, excluded.start), finish = greatest(f.finish, excluded.finish)
"""  # noqa: S608


def is_overtaken(claim: Claim) -> bool:
    """Whether another user's execution, which this worker could take, should go before the staged `claim`."""
    with connection.cursor() as cursor:
        cursor.execute(_OVERTAKEN_SQL, _parameters(claim) | {"token": claim.token, "worker": claim.worker})
        return bool(cursor.fetchone()[0])


def step_back(claim: Claim) -> None:
    """Place the execution of `claim`, which is being requeued, as if it had not been claimed.

    Virtual time keeps the value that the claim gave it: it never decreases.
    """
    rows.execute(_STEP_BACK_SQL, _parameters(claim) | {"tie": TIE_SECONDS})


def _parameters(claim: Claim) -> dict[str, Any]:
    staged: dict[str, UUID] = {"staged": claim.execution_id}
    return scheduling.flow(claim.user_id, claim.priority) | staged
