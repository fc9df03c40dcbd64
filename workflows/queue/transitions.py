"""Side effects of status changes: the terminal update, log lines, webhooks, counters and notifications.

Used only by `state_machine` and `requeueing`, inside their transactions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction

from comfyserve.db import connections, rows
from workflows import notify
from workflows.metrics import store
from workflows.models import (
    FailureCause,
    Level,
    Status,
    WebhookEvent,
)
from workflows.webhooks import outbox

from . import batch_countdown, execution_log, partner_keys, scheduling
from .execution_log import Line


@dataclass(frozen=True)
class Began:
    """When ComfyUI started an execution whose row does not record it yet."""

    at: float  # monotonic seconds
    total_steps: int

    @property
    def seconds_ago(self) -> float:
        return time.monotonic() - self.at


# GPU seconds: as measured, else time since the start. `started_at` is the value before the update, or
# `began`.
_USED_SQL = """
    greatest(coalesce(%(cost)s::float, extract(epoch FROM statement_timestamp() - started_at), 0),
             CASE WHEN started_at IS NOT NULL OR %(began_ago)s::float IS NOT NULL
                 THEN %(least)s::float END)::float
"""

# Affects live executions, claimed with `token` if it is given.
UPDATE_SQL = f"""
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
RETURNING user_id, start, cost, {_USED_SQL} AS used, claimed_at IS NOT NULL AS claimed
"""  # noqa: S608
_END_SQL = f"{UPDATE_SQL}, priority"


def end(
    ids: Sequence[UUID], status: Status, *, error: str | None = None, cause: FailureCause | None = None
) -> list[scheduling.Ended]:
    """End live executions from outside; return what they used, by the database clock.

    If that is below the estimate, the place in the order is corrected here, otherwise by `scheduling.charge`.
    """
    cursor = rows.prepared(_END_SQL, end_parameters(ids, status, error=error, cause=cause))
    return rows.as_dataclasses(scheduling.Ended, cursor)


def end_parameters(
    ids: Sequence[UUID],
    status: Status,
    *,
    error: str | None,
    cause: FailureCause | None,
    warnings: Sequence[str] = (),
    gpu_seconds: float | None = None,
    began: Began | None = None,
) -> dict[str, Any]:
    """Of UPDATE_SQL, for executions with any token."""
    return {
        "ids": list(ids),
        "token": None,
        "status": str(status),
        "completed": status == Status.COMPLETED,
        "error": connections.sanitize_json(error),
        "cause": cause,
        "warnings": json.dumps(connections.sanitize_json(list(warnings))),
        "gpu_seconds": gpu_seconds,
        "cost": gpu_seconds,
        "began_ago": None if began is None else began.seconds_ago,
        "total_steps": None if began is None else began.total_steps,
        "least": scheduling.MIN_CHARGE,
    }


def first_line() -> Line:
    return Line.of_status("Starting workflow execution", Status.RUNNING)


def last_line(status: str, error: str | None) -> Line:
    if status == Status.COMPLETED:
        return Line.of_status("Workflow completed successfully", status)
    return Line.of_status(f"Workflow failed: {error}", status, Level.ERROR, error=error)


def log(ids: Sequence[UUID], *lines: Line) -> None:
    execution_log.write(ids, lines)
    copy_later(ids, lines)


def copy_later(ids: Sequence[UUID], lines: Sequence[Line]) -> None:
    """To the process log, after the commit."""
    transaction.on_commit(lambda: execution_log.copy_to_process_log(ids, lines))


def follow_up(ids: Sequence[UUID], *, event: WebhookEvent | None = None, webhook: bool = True) -> None:
    """Add webhooks of `event` to the outbox and count ends now; notify subscribers after the commit.

    webhook: False if no webhook is known to be registered.
    """
    ended = event is not None and event.traits.is_terminal
    if event is not None and ids:
        if ended:
            store.note_ended(ids)
        record_effects(ids, event=event, webhook=webhook, batch=ended, secrets=ended)
    for id_ in ids:
        transaction.on_commit(lambda id_=id_: notify.announce_status(id_, ended=ended))  # type: ignore[misc]


def record_effects(
    ids: Sequence[UUID], *, event: WebhookEvent, webhook: bool, batch: bool, secrets: bool
) -> None:
    """Write what follows from `event`: webhooks, the countdown of batches, the erasure of secrets. Each is
    False if it is not due, or if none of the executions is known to have any.
    """
    if webhook:
        outbox.record(ids, event=event)
    if batch:
        batch_countdown.note_ended(ids)
    if secrets:
        _erase_secrets(ids)


def _erase_secrets(ids: Sequence[UUID]) -> None:
    """Addresses given for one run, since what is to be delivered has its own by now, and partner keys."""
    rows.execute(
        """
        UPDATE workflows_graph
        SET output = output #- '{deliver_to,urls}', extras = extras - %(keys)s
        WHERE execution_id = ANY(%(ids)s)
            AND (output #> '{deliver_to,urls}' IS NOT NULL OR jsonb_exists(extras, %(keys)s))
        """,
        {"ids": list(ids), "keys": partner_keys.FIELD},
    )


def report(ids: Sequence[UUID], event: Callable[[UUID], None]) -> None:
    """Publish Celery task events after the commit."""
    for id_ in ids:
        transaction.on_commit(partial(event, id_))
