"""Requeues executions: those returned by workers, and those held by dead workers.

Follows the rules of `state_machine`: conditional updates, and False if the row changed in the meantime.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Case, F, QuerySet, When
from django.db.models.functions import Greatest, Now

from comfyserve.db import rows
from workflows import notify, task_events
from workflows.metrics import store
from workflows.models import (
    ALIVE,
    Execution,
    FailureCause,
    Held,
    Level,
    Status,
    WebhookEvent,
)

from . import claims, overtaking, scheduling, transitions
from .claims import Claim
from .execution_log import Line

MAX_FAULTS = 2  # failed runs, of which it may be the cause, before it is given up
MAX_RETURNS = 10  # returns from running before it is given up, whatever the reasons


def requeue(
    claim: Claim,
    *,
    reason: str,
    fault: bool = False,
    exclude: bool = False,
    hold_seconds: float | None = None,
    overtaken: bool = False,
) -> bool:
    """running | claimed → pending, keeping its place in the order. False: the claim is lost.

    fault: it may have caused the failure (ComfyUI died or ran out of memory, or its worker had an internal
    error); the second time it fails. exclude: this backend must not claim it again. hold_seconds: the try
    failed; no worker may claim it for that long. overtaken: another user's goes first, unless it has started.
    """
    with transaction.atomic():
        staged = claims.held_by(claim).filter(status=Status.PENDING).exists() if overtaken else False
        found = _requeue(
            claims.held_by(claim), reason=reason, fault=fault, exclude=claim.worker if exclude else None,
            hold_seconds=hold_seconds,
        )  # fmt: skip
        if found and staged:
            overtaking.step_back(claim)
        return bool(found)


def _requeue(
    held: QuerySet[Execution], *, reason: str, fault: bool = False, exclude: str | None = None,
    hold_seconds: float | None = None, lost: bool = False,
) -> list[UUID]:  # fmt: skip
    """`lost`: the worker is dead; an execution that it was handling alone fails."""
    found = list(
        held.select_for_update(skip_locked=True)
        .filter(status__in=ALIVE, claim_token__isnull=False)
        .only("id", "faults", "handled_alone", "losses", "returns", "status", "worker")
    )
    attempts = {row.id: _attempts_if_exhausted(row, fault=fault, lost=lost) for row in found}
    exhausted = [row for row in found if attempts[row.id]]
    ended = [used for row in exhausted for used in _give_up(row, reason=reason, attempts=attempts[row.id])]
    back = [row.id for row in found if row not in exhausted]
    values: dict[str, Any] = {"faults": F("faults") + 1} if fault else {}
    values |= {"losses": F("losses") + 1} if lost else {}
    if hold_seconds:
        values |= {"tries": F("tries") + 1}
        values |= {"held": Held.BACKOFF, "held_until": Now() + timedelta(seconds=hold_seconds)}
    Execution.objects.filter(id__in=back).update(
        status=Status.PENDING, claim_token=None, lease_expires_at=None,
        suspect_lease=None, suspect_since=None, handled_alone=False, posted_at=None, boot="", started_at=None,
        current_step=0, total_steps=0, percentage=0, current_node=None, eta_seconds=None,
        returns=Case(When(status=Status.RUNNING, then=F("returns") + 1), default=F("returns")), **values,
    )  # fmt: skip
    if exclude is not None and back:
        rows.execute(
            "UPDATE workflows_execution SET excluded = excluded || %s::varchar WHERE id = ANY(%s)",
            [exclude, back],
        )
    transitions.log(back, Line.of_status(f"Back to the queue: {reason}", Status.PENDING, Level.WARNING))
    cause = "fault" if fault else "lacking" if exclude else "other"
    store.add("executions_taken_back", cause, count=len(back))
    transitions.follow_up(back)
    for row in found:
        if row not in exhausted:
            begun = row.status == Status.RUNNING
            retried = partial(task_events.retried, worker=row.worker, reason=reason, begun=begun)
            transitions.report([row.id], retried)
    if back and not hold_seconds:
        transaction.on_commit(notify.ticket)
    scheduling.charge(ended)
    return [row.id for row in found]


def _give_up(row: Execution, *, reason: str, attempts: int) -> list[scheduling.Ended]:
    error = f"Given up after {attempts} attempts: {reason}"
    ended = transitions.end([row.id], Status.FAILED, error=error, cause=FailureCause.GIVEN_UP)
    transitions.log([row.id], transitions.last_line(Status.FAILED, error))
    transitions.follow_up([row.id], event=WebhookEvent.FAILED)
    transitions.report([row.id], partial(task_events.failed, worker=row.worker, error=error))
    return ended


def _attempts_if_exhausted(row: Execution, *, fault: bool, lost: bool) -> int:
    """The number of attempts after which it is given up now; 0 if it may be tried again."""
    if fault and row.faults + 1 >= MAX_FAULTS:
        return row.faults + 1
    if lost and row.handled_alone:
        return row.losses + 1
    # An execution that had not started cannot be the cause.
    if row.status == Status.RUNNING and row.returns + 1 >= MAX_RETURNS:
        return row.returns + 1
    return 0


def reap() -> int:
    """Requeue executions held by dead workers; return the number requeued. Safe to run anywhere, any time.

    A claim is dead if its lease was seen expired 1.5 renewal periods ago and has not been renewed since:
    after a database outage every live worker gets to renew first. An execution already posted to a ComfyUI is
    reserved for a worker of that backend for RESERVED_SECONDS: that worker can rejoin the run, any other
    would run it twice.
    """
    claimed = Execution.objects.filter(status__in=ALIVE, claim_token__isnull=False)
    with transaction.atomic():
        expired = claimed.filter(lease_expires_at__lt=Now()).exclude(suspect_lease=F("lease_expires_at"))
        # Locked rows are left for the next run, so that nothing can block the reaper.
        free = expired.select_for_update(skip_locked=True, no_key=True).values_list("id", flat=True)
        Execution.objects.filter(id__in=list(free)).update(
            suspect_lease=F("lease_expires_at"), suspect_since=Now()
        )
        dead = claimed.filter(
            suspect_lease=F("lease_expires_at"),
            suspect_since__lt=Now() - timedelta(seconds=settings.RENEW_SECONDS * 1.5),
        )
        taken = _requeue(dead.filter(posted_at=None), reason="its worker stopped responding", lost=True)
        reserved = timedelta(seconds=settings.RESERVED_SECONDS)
        taken += _requeue(
            dead.filter(lease_expires_at__lt=Now() - reserved),
            reason="its worker and ComfyUI stopped responding",
            lost=True,
        )
        store.add("lease_losses", "reaped", count=len(taken))
    return len(taken)


def fail_stale(*, older_than: timedelta, limit: int = 100) -> int:
    """Fail executions that waited longer than `older_than` without being claimed; return their number.

    The time counts from when the execution became claimable: time held by a quota does not count, and a
    requeue restarts it.
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
            transitions.end(ids, Status.FAILED, error=error, cause=FailureCause.NOT_TAKEN)
            transitions.log(ids, transitions.last_line(Status.FAILED, error))
            transitions.follow_up(ids, event=WebhookEvent.FAILED)
            transitions.report(ids, partial(task_events.failed, worker="", error=error))
    return len(ids)
