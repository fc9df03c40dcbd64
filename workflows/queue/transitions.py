"""What every change of status writes with it: the terminal update, log lines, webhooks, counts and notices.

Used by `state_machine` and `requeueing` only, inside their transactions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from django.db import transaction

from comfyserve.db import connections, rows
from workflows import notify
from workflows.delivery import plan
from workflows.metrics import store
from workflows.models import (
    FailureCause,
    Level,
    Status,
    WebhookEvent,
)
from workflows.webhooks import outbox

from . import batch_countdown, execution_log, scheduling
from .execution_log import Line


@dataclass(frozen=True)
class Began:
    """When ComfyUI began an execution, while the row does not say so yet."""

    at: float  # monotonic seconds
    total_steps: int

    @property
    def seconds_ago(self) -> float:
        return time.monotonic() - self.at


# GPU seconds: what was measured, else since it began. `started_at` is that of before the end, or of `began`.
_USED_SQL = """
    greatest(coalesce(%(cost)s::float, extract(epoch FROM statement_timestamp() - started_at), 0),
             CASE WHEN started_at IS NOT NULL OR %(began_ago)s::float IS NOT NULL
                 THEN %(least)s::float END)::float
"""

# Of those that are alive, and claimed with `token` where it is given.
END_SQL = f"""
UPDATE workflows_execution SET
    status = %(status)s, completed_at = statement_timestamp(),
    started_at = coalesce(
        started_at, statement_timestamp() - make_interval(secs => %(began_ago)s::float)),
    total_steps = coalesce(%(total_steps)s::int, total_steps),
    error = %(error)s, failure_cause = %(cause)s, warnings = %(warnings)s::jsonb,
    gpu_seconds = %(gpu_seconds)s,
    finish = start + (finish - start) / cost * least(cost, {_USED_SQL}),
    percentage = CASE WHEN %(completed)s THEN 100 ELSE percentage END,
    current_step = CASE WHEN %(completed)s THEN coalesce(%(total_steps)s::int, total_steps)
        ELSE current_step END,
    current_node = CASE WHEN %(completed)s THEN NULL ELSE current_node END,
    eta_seconds = NULL, claim_token = NULL, lease_expires_at = NULL, suspect_lease = NULL,
    held = NULL, held_until = NULL
WHERE id = ANY(%(ids)s) AND status IN ('pending', 'running')
    AND (%(token)s::uuid IS NULL OR claim_token = %(token)s)
RETURNING user_id, priority, start, cost, {_USED_SQL} AS used, claimed_at IS NOT NULL AS claimed
"""  # noqa: S608


def end(
    ids: Sequence[UUID],
    status: Status,
    *,
    token: UUID | None = None,
    error: str | None = None,
    cause: FailureCause | None = None,
    warnings: Sequence[str] = (),
    gpu_seconds: float | None = None,
    cost: float | None = None,
    began: Began | None = None,
) -> list[scheduling.Ended]:
    """The terminal update of those that live, and are claimed with `token` where it is given; what they used.

    `cost` is what it really cost, in GPU seconds; None: as long as it ran by the database's clock. Where that
    is less than was reckoned, the place in the order is corrected here, else by `scheduling.charge`.
    """
    cursor = rows.prepared(
        END_SQL,
        {
            "ids": list(ids),
            "status": str(status),
            "completed": status == Status.COMPLETED,
            "token": token,
            "error": connections.sanitize_json(error),
            "cause": cause,
            "warnings": json.dumps(connections.sanitize_json(list(warnings))),
            "gpu_seconds": gpu_seconds,
            "cost": cost,
            "least": scheduling.MIN_CHARGE,
            "began_ago": None if began is None else began.seconds_ago,
            "total_steps": None if began is None else began.total_steps,
        },
    )
    return rows.as_dataclasses(scheduling.Ended, cursor)


def first_line() -> Line:
    return Line.of_status("Starting workflow execution", Status.RUNNING)


def last_line(status: str, error: str | None) -> Line:
    if status == Status.COMPLETED:
        return Line.of_status("Workflow completed successfully", status)
    return Line.of_status(f"Workflow failed: {error}", status, Level.ERROR, error=error)


def log(ids: Sequence[UUID], *lines: Line) -> None:
    execution_log.write(ids, lines)
    transaction.on_commit(lambda: execution_log.tell(ids, lines))


def follow_up(
    ids: Sequence[UUID],
    *,
    event: WebhookEvent | None = None,
    webhook: bool = True,
    batch: bool = True,
    delivery: bool = True,
) -> None:
    """Webhooks of `event` go into the outbox and ends are counted now; after the commit, readers are told.

    webhook: False where it is known that nobody asked for one. batch: False where none belongs to a batch.
    delivery: False where none is to be delivered.
    """
    ended = event is not None and event.traits.is_terminal
    if event is not None and ids and webhook:
        outbox.record(ids, event=event)
    if ended and ids:
        store.note_ended(ids)
        if batch:
            batch_countdown.note_ended(ids)
        if delivery:
            plan.forget(ids)
    for id_ in ids:
        transaction.on_commit(lambda id_=id_: notify.announce_status(id_, ended=ended))  # type: ignore[misc]


def report(ids: Sequence[UUID], event: Callable[[UUID], None]) -> None:
    """After the commit, tell Celery's monitors."""
    for id_ in ids:
        transaction.on_commit(partial(event, id_))
