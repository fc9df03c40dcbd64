"""The one door for status: every change of an execution's state, and the reaper. Claims are in `claims`.

    pending ──▶ running ──▶ completed | failed | cancelled
       │  ▲        │
       │  └────────┘ the system takes it back: next attempt
       └──▶ cancelled | failed

Each change is a conditional update on status and claim token; the number of rows decides, and terminal is
final. What must follow from it is written in the same transaction. Losing is normal here (a cancel may win
against a completion): functions say so with False or None and never raise for it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Case, F, QuerySet, When
from django.db.models.functions import Greatest, Now

from comfyserve.db import connections, rows
from files import storing
from workflows import notify, task_events
from workflows.metrics import store
from workflows.models import (
    ALIVE,
    Execution,
    FailureCause,
    Graph,
    Held,
    Level,
    LineKind,
    Output,
    Status,
    WebhookEvent,
)
from workflows.webhooks import outbox

from . import batch_countdown, claims, execution_log, scheduling
from .claims import Claim
from .execution_log import Line

logger = logging.getLogger(__name__)

MOST_TICKETS = 16
MAX_FAULTS = 2  # its ComfyUI died so often while it ran: poison
MAX_RETURNS = 10  # taken back from running so often, it ends whatever the reasons were
ENDED_CHANNEL = "comfyserve_ended"  # NOTIFY with the id of a claimed execution that was ended from outside


@dataclass(frozen=True)
class Began:
    """When ComfyUI began an execution, while the row does not say so yet."""

    at: float  # monotonic seconds
    total_steps: int

    @property
    def seconds_ago(self) -> float:
        return time.monotonic() - self.at


@dataclass(frozen=True)
class Outcome:
    """How a run ended, all of it: written in one transaction."""

    status: Status
    error: str | None = None
    error_details: dict[str, Any] | None = None
    failure_cause: FailureCause | None = None  # of a failed one
    outputs: Sequence[Output] = ()
    lines: Sequence[Line] = field(default=())
    warnings: Sequence[str] = field(default=())
    gpu_seconds: float | None = None
    began: Began | None = None  # a run that ended before its begin was recorded: both are written at once


def accepted(executions: Sequence[Execution], *, able: Sequence[str] = ()) -> None:
    """They wait from now on: what follows from that, in the transaction that makes them. `able` are the
    workers to be told, where not all can run them."""
    ids = [execution.id for execution in executions]
    execution_log.write(ids, [Line.of_status("Waiting in the queue", Status.PENDING)])
    transaction.on_commit(lambda: _hand_out(able, count=len(ids)))
    _follow_up(ids)
    transaction.on_commit(lambda: _describe(executions))


def _describe(executions: Sequence[Execution]) -> None:
    for execution in executions:
        description = task_events.describe(
            user=execution.user.username,
            priority=execution.priority,
            models=[model["name"] for model in execution.models_used],
        )
        task_events.sent(execution.id, description=description)


def _hand_out(workers: Sequence[str], *, count: int) -> None:
    """One ticket for each execution, up to as many as wake a large fleet: a worker looks again by itself."""
    for worker in workers or (None,) * min(count, MOST_TICKETS):
        notify.ticket(worker)


# -- running -----------------------------------------------------------------------------------------
def begin(claim: Claim, *, total_steps: int, seconds_ago: float = 0.0) -> bool:
    """pending → running: ComfyUI has begun it. True also where it runs already (joined)."""
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
            _follow_up([claim.execution_id], event=WebhookEvent.STARTED, webhook=claim.webhook)
            _log([claim.execution_id], _first_line())
            transaction.on_commit(lambda: task_events.started(claim.execution_id, worker=claim.worker))
    return changed == 1 or claims.held_by(claim).filter(status=Status.RUNNING).exists()


def write_progress(claim: Claim, *, columns: dict[str, Any], lines: Sequence[Line]) -> bool:
    """Progress columns and log lines of the run, in one transaction. False: the claim is lost."""
    with connections.async_commit():
        if not claims.held_by(claim).update(**(columns or {"worker": claim.worker})):
            return False
        _log([claim.execution_id], *lines)
    notify.announce_progress(claim.execution_id, columns, lines=bool(lines))
    return True


# -- the ends ----------------------------------------------------------------------------------------
def finish(claim: Claim, outcome: Outcome) -> bool:
    """Record how it ended, with everything it made. False: the claim is lost, drop the result."""
    with transaction.atomic():
        ended = _end(
            [claim.execution_id],
            outcome.status,
            token=claim.token,
            error=outcome.error,
            cause=outcome.failure_cause,
            warnings=outcome.warnings,
            gpu_seconds=outcome.gpu_seconds,
            cost=outcome.gpu_seconds or 0.0,
            began=outcome.began,
        )
        if not ended:
            return False
        if outcome.error_details is not None:
            details = connections.sanitize_json(outcome.error_details)
            Graph.objects.filter(execution_id=claim.execution_id).update(error_details=details)
        # First of all that follows from the commit: who waits for the end hears of it.
        _follow_up(
            [claim.execution_id],
            event=WebhookEvent.at_end(outcome.status),
            webhook=claim.webhook,
            batch=claim.batch,
        )
        storing.keep([output.file for output in outcome.outputs if output.file is not None])
        for position, output in enumerate(outcome.outputs):
            output.execution_id, output.position = claim.execution_id, position
            output.text = connections.sanitize_json(output.text)
        if outcome.outputs:
            rows.insert(*outcome.outputs)
        made = [_output_line(output) for output in outcome.outputs]
        first = [_first_line()] if outcome.began else []
        last = _last_line(outcome.status, outcome.error)
        _log([claim.execution_id], *first, *outcome.lines, *made, last)
        scheduling.lift_quota(user_id=claim.user_id)
        scheduling.charge(ended)
        transaction.on_commit(lambda: _report_end(claim, outcome))
    return True


def _report_end(claim: Claim, outcome: Outcome) -> None:
    id_, worker, runtime = claim.execution_id, claim.worker, outcome.gpu_seconds
    if outcome.began:
        task_events.started(id_, worker=worker)
    if outcome.status == Status.COMPLETED:
        task_events.succeeded(id_, worker=worker, runtime=runtime, outputs=len(outcome.outputs))
    else:
        task_events.failed(id_, worker=worker, error=outcome.error, runtime=runtime)


def fail_if_deadly(claim: Claim) -> bool:
    """Fail an adopted claim whose inputs were being prepared each time that its worker died. False: go on."""
    if claim.posted_at is not None or claim.faults < MAX_FAULTS:
        return False
    error = f"Given up: its worker died {claim.faults} times while it prepared the inputs"
    finish(claim, Outcome(Status.FAILED, error=error))
    return True


def has_outputs(claim: Claim, outputs: Sequence[Output]) -> bool:
    """Whether they are in the execution's result: `finish` may have done it, and its answer been lost."""
    files = [output.file_id for output in outputs if output.file_id is not None]
    return Output.objects.filter(execution_id=claim.execution_id, file_id__in=files).exists()


def cancel(execution_id: UUID, *, by: str = "its user") -> bool:
    """Cancel it now, whoever works on it. False: it had ended already.

    The worker learns of it by the notification, or by its next write, and clears its ComfyUI.
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
        ended = _end([execution_id], Status.CANCELLED)
        _log([execution_id], Line.of_status(f"Cancelled by {by}", Status.CANCELLED, Level.WARNING))
        _follow_up([execution_id], event=WebhookEvent.CANCELLED)
        if row["claim_token"] is not None:
            _notify_worker(execution_id)
        scheduling.lift_quota(user_id=row["user_id"])
        scheduling.charge(ended)
        claimed = row["claim_token"] is not None
        transaction.on_commit(
            lambda: task_events.revoked(execution_id, worker=row["worker"], terminated=claimed)
        )
    return True


def cancel_all(ids: Sequence[UUID], *, by: str) -> int:
    """The same for several of one user, in one transaction; the number of those that had not ended."""
    with transaction.atomic():
        alive = Execution.objects.filter(id__in=ids, status__in=ALIVE).order_by("id").select_for_update()
        found = list(alive.values_list("id", "claim_token", "user_id", "worker"))
        if not found:
            return 0
        going = [row[0] for row in found]
        ended = _end(going, Status.CANCELLED)
        _log(going, Line.of_status(f"Cancelled by {by}", Status.CANCELLED, Level.WARNING))
        _follow_up(going, event=WebhookEvent.CANCELLED)
        for execution_id, token, _, _ in found:
            if token is not None:
                _notify_worker(execution_id)
        scheduling.lift_quota(user_id=found[0][2])
        scheduling.charge(ended)
        transaction.on_commit(lambda: _tell_revoked(found))
    return len(found)


def _tell_revoked(cancelled: Sequence[tuple[UUID, UUID | None, int, str]]) -> None:
    for execution_id, token, _, worker in cancelled:
        task_events.revoked(execution_id, worker=worker, terminated=token is not None)


def move(execution_id: UUID, *, priority: str, cost: float, place: scheduling.Place, by: str) -> bool:
    """Give it another priority and place in the order. False: a worker has it, or it has ended."""
    with transaction.atomic():
        waiting = Execution.objects.filter(id=execution_id, status=Status.PENDING, claim_token=None)
        moved = waiting.update(
            priority=priority, cost=cost, turn=place.turn, start=place.start, finish=place.finish
        )
        if moved:
            _log([execution_id], Line(f"Priority changed to {priority} by {by}"))
            _follow_up([execution_id])
            transaction.on_commit(notify.ticket)
    return moved == 1


def fail_stale(*, older_than: timedelta, limit: int = 100) -> int:
    """Fail what waits for longer than that with no worker to take it; the number of them.

    Time counts from when it could be taken: not while a quota held it, and anew where it came back.
    """
    with transaction.atomic():
        ids = list(
            Execution.objects.select_for_update(skip_locked=True)
            .filter(status=Status.PENDING, claim_token=None, created_at__lt=Now() - older_than)
            .alias(since=Greatest("created_at", "claimed_at", "held_until"))
            .filter(since__lt=Now() - older_than)
            .exclude(held__isnull=False, held=Held.QUOTA)
            .values_list("id", flat=True)[:limit]
        )
        if ids:
            hours = older_than.total_seconds() / 3600
            error = f"No worker could take it for {hours:g} hours"
            _end(ids, Status.FAILED, error=error, cause=FailureCause.NOT_TAKEN)
            _log(ids, _last_line(Status.FAILED, error))
            _follow_up(ids, event=WebhookEvent.FAILED)
            _report(ids, partial(task_events.failed, worker="", error=error))
    return len(ids)


# GPU seconds: what was measured, else since it began. `started_at` is that of before the end, or of `began`.
_USED_SQL = """
    greatest(coalesce(%(cost)s::float, extract(epoch FROM statement_timestamp() - started_at), 0),
             CASE WHEN started_at IS NOT NULL OR %(began_ago)s::float IS NOT NULL
                 THEN %(least)s::float END)::float
"""


def _end(
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
        f"""
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
        """,  # noqa: S608
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


def _first_line() -> Line:
    return Line.of_status("Starting workflow execution", Status.RUNNING)


def _last_line(status: str, error: str | None) -> Line:
    if status == Status.COMPLETED:
        return Line.of_status("Workflow completed successfully", status)
    return Line.of_status(f"Workflow failed: {error}", status, Level.ERROR, error=error)


def _output_line(output: Output) -> Line:
    """Names the output; what it is and where is in its own row, with the link that the reader needs."""
    made = "a text" if output.file is None else output.file.filename
    data = {"position": output.position}
    return Line(f"Saved {made}", node_id=output.node_id, kind=LineKind.OUTPUT, data=data)


# -- back to the queue --------------------------------------------------------------------------------
def requeue(
    claim: Claim,
    *,
    reason: str,
    fault: bool = False,
    exclude: bool = False,
    hold_seconds: float | None = None,
) -> bool:
    """running | claimed → pending, with its place in the order. False: the claim is lost.

    fault: its ComfyUI died while it ran; twice is poison and fails it. exclude: not for this backend again.
    hold_seconds: the try failed, and nobody may take it for so long.
    """
    with transaction.atomic():
        return bool(
            _requeue(
                claims.held_by(claim), reason=reason, fault=fault, exclude=claim.worker if exclude else None,
                hold_seconds=hold_seconds,
            )
        )  # fmt: skip


def _requeue(
    held: QuerySet[Execution], *, reason: str, fault: bool = False, exclude: str | None = None,
    hold_seconds: float | None = None,
) -> list[UUID]:  # fmt: skip
    found = list(
        held.select_for_update(skip_locked=True)
        .filter(status__in=ALIVE, claim_token__isnull=False)
        .only("id", "faults", "returns", "status", "worker")
    )
    poison = [row for row in found if _is_poison(row, fault=fault)]
    ended: list[scheduling.Ended] = []
    for row in poison:
        # Claims that were given back before anything ran are no attempts.
        failed = row.faults + 1 if fault and row.faults + 1 >= MAX_FAULTS else row.returns + 1
        error = f"Given up after {failed} attempts: {reason}"
        ended += _end([row.id], Status.FAILED, error=error, cause=FailureCause.GIVEN_UP)
        _log([row.id], _last_line(Status.FAILED, error))
        _follow_up([row.id], event=WebhookEvent.FAILED)
        _report([row.id], partial(task_events.failed, worker=row.worker, error=error))
    back = [row.id for row in found if row not in poison]
    values: dict[str, Any] = {"faults": F("faults") + 1} if fault else {}
    if hold_seconds:
        values |= {"tries": F("tries") + 1}
        values |= {"held": Held.BACKOFF, "held_until": Now() + timedelta(seconds=hold_seconds)}
    Execution.objects.filter(id__in=back).update(
        status=Status.PENDING, claim_token=None, lease_expires_at=None,
        suspect_lease=None, suspect_since=None, posted_at=None, boot="", started_at=None,
        current_step=0, total_steps=0, percentage=0, current_node=None, eta_seconds=None,
        returns=Case(When(status=Status.RUNNING, then=F("returns") + 1), default=F("returns")), **values,
    )  # fmt: skip
    if exclude is not None and back:
        rows.execute(
            "UPDATE workflows_execution SET excluded = excluded || %s::varchar WHERE id = ANY(%s)",
            [exclude, back],
        )
    _log(back, Line.of_status(f"Back to the queue: {reason}", Status.PENDING, Level.WARNING))
    cause = "fault" if fault else "lacking" if exclude else "other"
    store.add("executions_taken_back", cause, count=len(back))
    _follow_up(back)
    for row in found:
        if row not in poison:
            begun = row.status == Status.RUNNING
            _report([row.id], partial(task_events.retried, worker=row.worker, reason=reason, begun=begun))
    if back and not hold_seconds:
        transaction.on_commit(notify.ticket)
    scheduling.charge(ended)
    return [row.id for row in found]


def _is_poison(row: Execution, *, fault: bool) -> bool:
    if fault and row.faults + 1 >= MAX_FAULTS:
        return True
    # What had not begun cannot be to blame.
    return row.status == Status.RUNNING and row.returns + 1 >= MAX_RETURNS


def reap() -> int:
    """Take back what dead workers hold; the number taken. Safe to run anywhere, any time.

    A claim is dead when its lease was seen expired one renewal period ago and has not changed since: after
    an outage of the database every live worker renews first. What was posted to a ComfyUI is kept for a
    worker of that backend for RESERVED_SECONDS: it can join the run, anyone else would run it twice.
    """
    claimed = Execution.objects.filter(status__in=ALIVE, claim_token__isnull=False)
    with transaction.atomic():
        expired = claimed.filter(lease_expires_at__lt=Now()).exclude(suspect_lease=F("lease_expires_at"))
        # What somebody has locked is left for the next time: nobody may stop the reaper.
        free = expired.select_for_update(skip_locked=True, no_key=True).values_list("id", flat=True)
        Execution.objects.filter(id__in=list(free)).update(
            suspect_lease=F("lease_expires_at"), suspect_since=Now()
        )
        dead = claimed.filter(
            suspect_lease=F("lease_expires_at"),
            suspect_since__lt=Now() - timedelta(seconds=settings.RENEW_SECONDS * 1.5),
        )
        taken = _requeue(dead.filter(posted_at=None), reason="its worker is gone")
        reserved = timedelta(seconds=settings.RESERVED_SECONDS)
        taken += _requeue(
            dead.filter(lease_expires_at__lt=Now() - reserved), reason="its worker and ComfyUI are gone"
        )
        store.add("lease_losses", "reaped", count=len(taken))
    return len(taken)


def lift_backoff() -> int:
    """Let those go whose backoff is over; the number of them."""
    due = Execution.objects.filter(status=Status.PENDING, held=Held.BACKOFF, held_until__lt=Now())
    with transaction.atomic():
        free = due.select_for_update(skip_locked=True).values_list("id", flat=True)
        lifted = Execution.objects.filter(id__in=list(free)).update(held=None, held_until=None)
        if lifted:
            transaction.on_commit(notify.ticket)
    return lifted


def lift_quotas() -> int:
    """Let those go that their users' quotas do not hold back any more; the number of them.

    Mostly that has happened where an execution ended. But two transactions may not see each other (the last
    one ends while the next is submitted), and limits may be changed.
    """
    waiting = Execution.objects.filter(status=Status.PENDING, held=Held.QUOTA)
    lifted = 0
    for user_id in waiting.values_list("user_id", flat=True).distinct():
        with transaction.atomic():
            if scheduling.lock_submissions(user_id=user_id, wait=False):
                lifted += scheduling.lift_quota(user_id=user_id, or_all=True)
    if lifted:
        notify.ticket()
    return lifted


# -- what follows --------------------------------------------------------------------------------------
def _log(ids: Sequence[UUID], *lines: Line) -> None:
    execution_log.write(ids, lines)
    transaction.on_commit(lambda: execution_log.tell(ids, lines))


def _follow_up(
    ids: Sequence[UUID], *, event: WebhookEvent | None = None, webhook: bool = True, batch: bool = True
) -> None:
    """Webhooks of `event` go into the outbox and ends are counted now; after the commit, readers are told.

    webhook: False where it is known that nobody asked for one. batch: False where none belongs to a batch.
    """
    ended = event is not None and event.traits.is_terminal
    if event is not None and ids and webhook:
        outbox.record(ids, event=event)
    if ended and ids:
        store.note_ended(ids)
        if batch:
            batch_countdown.note_ended(ids)
    for id_ in ids:
        transaction.on_commit(lambda id_=id_: notify.announce_status(id_, ended=ended))  # type: ignore[misc]


def _report(ids: Sequence[UUID], event: Callable[[UUID], None]) -> None:
    """After the commit, tell Celery's monitors."""
    for id_ in ids:
        transaction.on_commit(partial(event, id_))


def _notify_worker(execution_id: UUID) -> None:
    rows.execute("SELECT pg_notify(%s, %s)", [ENDED_CHANNEL, str(execution_id)])
