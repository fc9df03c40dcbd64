"""Releases held executions: those whose backoff has ended, and those that a quota no longer holds back.

An execution is held while its `held` names a reason; it keeps its place and is not claimed.
"""

from __future__ import annotations

from django.db import transaction
from django.db.models.functions import Now

from accounts import quotas
from comfyserve.db import rows
from workflows import notify
from workflows.models import Execution, Held, Status

from . import scheduling


def lift_backoff() -> int:
    """Release executions whose backoff has ended; return their number."""
    due = Execution.objects.filter(status=Status.PENDING, held=Held.BACKOFF, held_until__lt=Now())
    with transaction.atomic():
        free = due.select_for_update(skip_locked=True).values_list("id", flat=True)
        lifted = Execution.objects.filter(id__in=list(free)).update(held=None, held_until=None)
        if lifted:
            transaction.on_commit(notify.ticket)
    return lifted


def lift_quotas() -> int:
    """Release executions that their user's quota no longer holds back; return their number.

    Usually this happens when an execution ends. This catches the rest: two transactions that do not see each
    other (the last execution ends while the next is submitted), and changed limits.
    """
    waiting = Execution.objects.filter(status=Status.PENDING, held=Held.QUOTA)
    lifted = 0
    for user_id in waiting.values_list("user_id", flat=True).distinct():
        with transaction.atomic():
            if scheduling.lock_submissions(user_id=user_id, wait=False):
                lifted += lift_quota(user_id=user_id, or_all=True)
    if lifted:
        notify.ticket()
    return lifted


def lift_quota(*, user_id: int, or_all: bool = False) -> int:
    """Release as many of the user's held executions as may run concurrently; return the number released.

    The rest stay `held`, so that they do not block others. `or_all`: release all if the user has no limit
    (any more); without it, users without a limit are skipped.
    """
    limit = quotas.running_at_once(user_id=user_id)
    if limit is None and not or_all:
        return 0
    return rows.execute(
        # Chosen in a CTE: PostgreSQL may run a subquery once for each row, and its LIMIT then limits nothing.
        """
        WITH next AS (
            SELECT id FROM workflows_execution
            WHERE user_id = %(user)s AND status = 'pending' AND held = 'quota'
            ORDER BY turn, created_at
            LIMIT CASE WHEN %(limit)s::int IS NOT NULL THEN greatest(0, %(limit)s::int - (
                SELECT count(*) FROM workflows_execution
                WHERE user_id = %(user)s AND status IN ('pending', 'running')
                  AND held IS DISTINCT FROM 'quota')) END
            FOR UPDATE SKIP LOCKED
        )
        UPDATE workflows_execution e SET held = NULL, held_until = statement_timestamp()
        FROM next WHERE e.id = next.id
        """,
        {"user": user_id, "limit": limit},
    )
