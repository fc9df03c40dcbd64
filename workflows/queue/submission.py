"""Accepting, retrying, cancelling and deleting executions: what the views call."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction

from accounts import quotas
from accounts.models import User
from comfyserve.api import request_ids
from comfyserve.api.errors import Conflict, Unavailable, ValidationFailed
from comfyserve.db import rows
from workflows.fleet import registry
from workflows.graph import formats, input_files, links, node_info, parsing
from workflows.metrics import store
from workflows.models import ALIVE, TERMINAL, Execution, Graph, Held, Level, Status
from workflows.presentation import selectors
from workflows.webhooks import outbox

from . import deletion, execution_log, matching, scheduling, state_machine
from .execution_log import Line

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Accepted:
    execution: Execution
    queue_position: int | None
    estimated_seconds: float | None
    note: str | None  # what the user should know, such as that no worker lives


def submit(
    *,
    user: User,
    workflow: Any,
    priority: str,
    timeout_minutes: int,
    metadata: Mapping[str, Any],
    metadata_text: str = "",
    webhook: outbox.Wanted | None = None,
    retried_from: UUID | None = None,
) -> Accepted:
    """Put a workflow in the queue. `webhook` is to be checked before.

    Raises ValidationFailed for structural mistakes, LimitExceeded for a quota, Unavailable when the whole
    queue is full.
    """
    reading = formats.read(workflow, user=user, max_nodes=settings.MAX_NODES)
    graph = reading.graph
    wrong = list(links.mistakes(graph, node_info.everywhere()))
    if wrong:
        raise ValidationFailed(wrong)
    kind = parsing.kind_of(graph.prompt)
    used = parsing.models_of(graph.prompt)
    taken = input_files.take(graph, user=user)
    suited = matching.suited(graph.prompt, used)
    priority = scheduling.lowest(priority, quotas.highest_priority(user=user))
    with transaction.atomic():
        scheduling.lock_submissions(user_id=user.pk)
        _check_room(user)
        known, cost, place = scheduling.place(kind=kind, user_id=user.pk, priority=priority)
        limited = quotas.runs_are_limited(user=user)
        execution = Execution(
            user=user,
            priority=priority,
            timeout_minutes=timeout_minutes,
            request_id=request_ids.current() or "",
            retried_from_id=retried_from,
            turn=place.turn,
            start=place.start,
            finish=place.finish,
            cost=cost,
            held=Held.QUOTA if limited else None,
            kind=kind,
            models_used=[{"name": use.name, "type": use.type} for use in used],
            lacking=suited.lacking,
            metadata=dict(metadata),
            metadata_text=metadata_text,
            webhook_url=webhook.url if webhook else "",
        )
        rows.insert(execution)
        rows.insert(Graph(execution=execution, submitted=reading.source, prompt=taken.prompt))
        input_files.pin(taken, execution_id=execution.id)
        store.note_submitted(priority=priority)
        if webhook:
            outbox.ask(execution, webhook)
        if limited:
            scheduling.lift_quota(user_id=user.pk)
        state_machine.accepted(execution, able=suited.able)
        execution_log.write([execution.id], [Line(text, Level.WARNING) for text in reading.warnings])
    logger.info(
        "Accepted, %d nodes, priority %s",
        len(graph.prompt),
        priority,
        extra={"execution_id": str(execution.id)},
    )
    return Accepted(
        execution=execution,
        queue_position=scheduling.positions([execution.id]).get(execution.id),
        estimated_seconds=known,
        note=None
        if registry.any_alive_lately()
        else "No GPU worker is running; the workflow waits until one is",
    )


def _check_room(user: User) -> None:
    counted = quotas.waiting_is_limited(user=user)
    waiting = Execution.objects.filter(user=user, status=Status.PENDING).count() if counted else 0
    quotas.check_submission(user=user, waiting=waiting)
    if selectors.pending_count_lately() >= settings.MAX_PENDING:
        raise Unavailable("The queue is full; try again later", retry_after=60)


def retry(*, user: User, execution: Execution) -> Accepted:
    """Submit a failed or cancelled execution again, as a new one. Conflict for any other."""
    if execution.status not in (Status.FAILED, Status.CANCELLED):
        raise Conflict(f"Only a failed or cancelled execution can be retried; this one is {execution.status}")
    return submit(
        user=user,
        workflow=execution.graph.submitted,
        priority=execution.priority,
        timeout_minutes=execution.timeout_minutes,
        metadata=execution.metadata,
        metadata_text=execution.metadata_text,
        webhook=outbox.wanted_of(execution),
        retried_from=execution.id,
    )


def cancel(*, execution: Execution, by: str = "its user") -> None:
    """Cancel it; it is terminal when this returns. Conflict where it had ended already."""
    if not state_machine.cancel(execution.id, by=by):
        execution.refresh_from_db(fields=["status"])
        raise Conflict(f"The execution has ended already; it is {execution.status}")


def prioritise(*, execution: Execution, priority: str, by: str) -> None:
    """Move a waiting one to where it would stand, had it been submitted now with that priority.

    Nothing where it has that priority; Conflict once a worker has it.
    """
    with transaction.atomic():
        scheduling.lock_submissions(user_id=execution.user_id)
        execution.refresh_from_db(fields=["priority", "status"])
        if execution.priority == priority:
            return
        _, cost, place = scheduling.place(kind=execution.kind, user_id=execution.user_id, priority=priority)
        if not state_machine.move(execution.id, priority=priority, cost=cost, place=place, by=by):
            raise Conflict("Only an execution that waits for a worker can be moved in the queue")


def delete(*, execution: Execution) -> None:
    """Delete an ended execution with its files, but for those that another needs. Conflict while it lives."""
    if execution.status in ALIVE:
        raise Conflict(f"Cancel the execution before you delete it; it is {execution.status}")
    deletion.remove(Execution.objects.filter(id=execution.id, status__in=TERMINAL))
