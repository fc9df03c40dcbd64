"""Every status change except requeues, which are in `requeueing`. Claims are in `claims`.

    pending ──▶ running ──▶ completed | failed | cancelled
       │  ▲        │
       │  └────────┘ requeued: next attempt
       └──▶ cancelled | failed

Each change is a conditional update on status and claim token; the row count decides, and terminal states are
final. Side effects are written in the same transaction. Losing a race is normal (a cancel may beat a
completion): functions return False or None for it and never raise.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import transaction

from comfyserve.db import connections, rows
from files import converted
from files.models import ConvertedFile
from workflows import notify, task_events
from workflows.delivery import plan
from workflows.models import (
    ALIVE,
    Execution,
    FailureCause,
    Graph,
    Level,
    LineKind,
    Output,
    Status,
    WebhookEvent,
)
from workflows.presentation import end_message

from . import claims, end_rows, holds, partner_keys, scheduling, transitions
from .claims import Claim
from .execution_log import Line
from .transitions import Began

logger = logging.getLogger(__name__)

MOST_TICKETS = 16
ENDED_CHANNEL = "comfyserve_ended"  # NOTIFY payload: id of a claimed execution that was ended from outside


KILLED_WORKER = "Given up after 2 attempts: its worker died while it handled the inputs or outputs"


@dataclass(frozen=True)
class Outcome:
    """The complete outcome of a run, written in one transaction."""

    status: Status
    error: str | None = None
    error_details: dict[str, Any] | None = None
    failure_cause: FailureCause | None = None  # only if failed
    outputs: Sequence[Output] = ()
    lines: Sequence[Line] = field(default=())
    warnings: Sequence[str] = field(default=())
    gpu_seconds: float | None = None
    # Converted outputs; their rows are saved together with the end.
    made: Sequence[tuple[Output, ConvertedFile]] = ()
    began: Began | None = None  # set if the run ended before its start was recorded: both are written at once


def accepted(executions: Sequence[Execution], *, able: Sequence[str] = ()) -> None:
    """Announce after the commit that new executions are waiting, in the transaction that creates them.

    `able` are the workers to notify if not all of them can run them.
    """
    owners = {execution.id: execution.user_id for execution in executions}
    some = random.sample(able, min(len(able), MOST_TICKETS))
    workers = some or (None,) * min(len(owners), MOST_TICKETS)  # workers poll anyway
    transaction.on_commit(lambda: notify.submitted(owners, workers=workers))
    transaction.on_commit(lambda: _describe(executions))


def _describe(executions: Sequence[Execution]) -> None:
    for execution in executions:
        description = task_events.describe(
            user=execution.user.username,
            priority=execution.priority,
            models=[model["name"] for model in execution.models_used],
        )
        task_events.sent(execution.id, description=description)


# -- running -----------------------------------------------------------------------------------------
def begin(claim: Claim, *, total_steps: int, seconds_ago: float = 0.0) -> bool:
    """pending → running: ComfyUI has started it. Also True if it is already running (rejoined)."""
    with transaction.atomic():
        changed = rows.execute(
            """
            UPDATE workflows_execution
            SET status = 'running', total_steps = %s,
                started_at = statement_timestamp() - make_interval(secs => %s)
            WHERE id = %s AND claim_token = %s AND status = 'pending'
            """,
            [total_steps, seconds_ago, claim.execution_id, claim.token],
        )
        if changed:
            transitions.follow_up([claim.execution_id], event=WebhookEvent.STARTED, webhook=claim.webhook)
            transitions.log([claim.execution_id], transitions.first_line())
            transaction.on_commit(lambda: task_events.started(claim.execution_id, worker=claim.worker))
    return changed == 1 or claims.held_by(claim).filter(status=Status.RUNNING).exists()


def write_progress(claim: Claim, *, columns: dict[str, Any], lines: Sequence[Line]) -> bool:
    """Write progress columns and log lines in one transaction. False: the claim is lost."""
    with connections.async_commit():
        if not claims.held_by(claim).update(**(columns or {"worker": claim.worker})):
            return False
        transitions.log([claim.execution_id], *lines)
    notify.announce_progress(claim.execution_id, columns, lines=bool(lines))
    return True


# -- terminal states ---------------------------------------------------------------------------------
def finish(claim: Claim, outcome: Outcome) -> bool:
    """Record the outcome with all outputs. False: the claim is lost, discard the result.

    One round trip, unless something follows that few executions need. If the claim is lost, nothing was
    written, so that COMMIT may be sent before that is known.
    """
    follows = _needs_follow_up(claim, outcome)
    with rows.begun_in_pipeline(commit=not follows) as first:
        with first:
            read = _send_end(claim, outcome, charge=not follows)
        # First on_commit callback, so that clients waiting for the end are notified first.
        transaction.on_commit(lambda: _announce_end(claim, outcome, written.rows if written else None))
        written = read()
        if written is None:
            transaction.set_rollback(True)  # drops the callbacks
            return False
        if follows:
            _follow_up_end(claim, outcome)
            scheduling.charge([written.used])
        transaction.on_commit(lambda: _report_end(claim, outcome))
    return True


def _send_end(claim: Claim, outcome: Outcome, *, charge: bool) -> Callable[[], end_rows.Written | None]:
    for position, output in enumerate(outcome.outputs):
        output.execution_id, output.position = claim.execution_id, position
    first = [transitions.first_line()] if outcome.began else []
    made = [_output_line(output) for output in outcome.outputs]
    last = transitions.last_line(outcome.status, outcome.error)
    return end_rows.write_later(
        claim,
        outcome.status,
        outputs=outcome.outputs,
        lines=[*first, *outcome.lines, *made, last],
        charge=charge,
        error=outcome.error,
        cause=outcome.failure_cause,
        warnings=outcome.warnings,
        gpu_seconds=outcome.gpu_seconds,
        began=outcome.began,
    )


def _needs_follow_up(claim: Claim, outcome: Outcome) -> bool:
    return bool(
        outcome.made
        or outcome.error_details is not None
        or claim.webhook
        or claim.batch
        or _has_secrets(claim)
        or claim.output.get("deliver_to")
        or claim.running_at_once is not None
    )


def _follow_up_end(claim: Claim, outcome: Outcome) -> None:
    """Converted outputs, error details, webhooks, batches, secrets to erase, deliveries, held executions."""
    _keep_converted(outcome.made)
    if outcome.error_details is not None:
        details = connections.sanitize_json(outcome.error_details)
        Graph.objects.filter(execution_id=claim.execution_id).update(error_details=details)
    transitions.record_effects(
        [claim.execution_id],
        event=WebhookEvent.at_end(outcome.status),
        webhook=claim.webhook,
        batch=claim.batch,
        secrets=_has_secrets(claim),
    )
    if outcome.status == Status.COMPLETED:
        plan.begin(claim.execution_id, user_id=claim.user_id, output=claim.output, made=outcome.outputs)
    if claim.running_at_once is not None:
        holds.lift_quota(user_id=claim.user_id)


def _has_secrets(claim: Claim) -> bool:
    return bool(claim.output.get("deliver_to") or claim.extras.get(partner_keys.FIELD))


def _announce_end(claim: Claim, outcome: Outcome, packed: str | None) -> None:
    """With the rows of the result, unless a reader has to read more than these."""
    has_more = outcome.made or claim.output.get("deliver_to")
    if packed is None or outcome.status != Status.COMPLETED or has_more or len(packed) > end_message.LONGEST:
        packed = None
    notify.announce_end(claim.execution_id, user_id=claim.user_id, status=str(outcome.status), rows=packed)


def _keep_converted(made: Sequence[tuple[Output, ConvertedFile]]) -> None:
    pairs = [converted.Pair(output.file, each) for output, each in made if output.file is not None]
    kept = converted.keep(pairs)
    for output, each in made:
        output.converted = kept[each.key]
        output.save(update_fields=["converted"])


def _report_end(claim: Claim, outcome: Outcome) -> None:
    id_, worker, runtime = claim.execution_id, claim.worker, outcome.gpu_seconds
    if outcome.began:
        task_events.started(id_, worker=worker)
    if outcome.status == Status.COMPLETED:
        task_events.succeeded(id_, worker=worker, runtime=runtime, outputs=len(outcome.outputs))
    else:
        task_events.failed(id_, worker=worker, error=outcome.error, runtime=runtime)


def fail_if_killed_worker(claim: Claim) -> bool:
    """Fail an adopted claim that its worker was handling alone when it died (it did so after an earlier
    loss). False: not the case, continue.
    """
    if not claim.handled_alone:
        return False
    finish(claim, Outcome(Status.FAILED, error=KILLED_WORKER, failure_cause=FailureCause.GIVEN_UP))
    return True


def has_outputs(claim: Claim, outputs: Sequence[Output]) -> bool:
    """Whether these outputs are already saved: `finish` may have committed although its response was lost."""
    files = [output.file_id for output in outputs if output.file_id is not None]
    return Output.objects.filter(execution_id=claim.execution_id, file_id__in=files).exists()


def cancel(execution_id: UUID, *, by: str = "its user") -> bool:
    """Cancel it now, even if a worker holds it. False: it had already ended.

    The worker learns of it from the notification or at its next write, and clears its ComfyUI.
    """
    with transaction.atomic():
        row = (
            Execution.objects.select_for_update()
            .filter(id=execution_id, status__in=ALIVE)
            .values("claim_token", "user_id", "worker")
            .first()
        )
        if row is None:
            return False
        ended = transitions.end([execution_id], Status.CANCELLED)
        transitions.log([execution_id], Line.of_status(f"Cancelled by {by}", Status.CANCELLED, Level.WARNING))
        transitions.follow_up([execution_id], event=WebhookEvent.CANCELLED)
        if row["claim_token"] is not None:
            _notify_worker(execution_id)
        holds.lift_quota(user_id=row["user_id"])
        scheduling.charge(ended)
        claimed = row["claim_token"] is not None
        transaction.on_commit(
            lambda: task_events.revoked(execution_id, worker=row["worker"], terminated=claimed)
        )
    return True


def cancel_all(ids: Sequence[UUID], *, by: str) -> int:
    """Cancel several executions of one user in one transaction; return the number that had not ended."""
    with transaction.atomic():
        alive = Execution.objects.filter(id__in=ids, status__in=ALIVE).order_by("id").select_for_update()
        found = list(alive.values_list("id", "claim_token", "user_id", "worker"))
        if not found:
            return 0
        going = [row[0] for row in found]
        ended = transitions.end(going, Status.CANCELLED)
        transitions.log(going, Line.of_status(f"Cancelled by {by}", Status.CANCELLED, Level.WARNING))
        transitions.follow_up(going, event=WebhookEvent.CANCELLED)
        for execution_id, token, _, _ in found:
            if token is not None:
                _notify_worker(execution_id)
        holds.lift_quota(user_id=found[0][2])
        scheduling.charge(ended)
        transaction.on_commit(lambda: _publish_revoked(found))
    return len(found)


def _publish_revoked(cancelled: Sequence[tuple[UUID, UUID | None, int, str]]) -> None:
    for execution_id, token, _, worker in cancelled:
        task_events.revoked(execution_id, worker=worker, terminated=token is not None)


def move(execution_id: UUID, *, priority: str, place: scheduling.Placed, by: str) -> bool:
    """Change its priority and place in the order. False: a worker holds it, or it has ended."""
    with transaction.atomic():
        waiting = Execution.objects.filter(id=execution_id, status=Status.PENDING, claim_token=None)
        moved = waiting.update(
            priority=priority, cost=place.cost, turn=place.turn, start=place.start, finish=place.finish
        )
        if moved:
            transitions.log([execution_id], Line(f"Priority changed to {priority} by {by}"))
            transitions.follow_up([execution_id])
            transaction.on_commit(notify.ticket)
    return moved == 1


def _output_line(output: Output) -> Line:
    """Only names the output; its details are in its own row, with the link that the reader needs."""
    made = "a text" if output.file is None else output.file.filename
    data = {"position": output.position}
    return Line(f"Saved {made}", node_id=output.node_id, kind=LineKind.OUTPUT, data=data)


def _notify_worker(execution_id: UUID) -> None:
    rows.execute("SELECT pg_notify(%s, %s)", [ENDED_CHANNEL, str(execution_id)])
