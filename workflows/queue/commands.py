"""Retry, cancel, prioritise or delete an execution: the service layer of the API, doors and console."""

from __future__ import annotations

from dataclasses import replace

from django.db import transaction

from accounts.models import User
from comfyserve.api.errors import Conflict
from workflows.delivery import plan
from workflows.models import ALIVE, TERMINAL, Execution, Status
from workflows.webhooks import outbox

from . import deletion, partner_keys, scheduling, state_machine, submission


def retry(*, user: User, execution: Execution) -> submission.Accepted:
    """Resubmit a failed or cancelled execution as a new one. Raises Conflict for any other."""
    if execution.status not in (Status.FAILED, Status.CANCELLED):
        raise Conflict(f"Only a failed or cancelled execution can be retried; this one is {execution.status}")
    return submission.submit_work(
        user=user,
        work=work_of(execution),
        priority=execution.priority,
        timeout_minutes=execution.timeout_minutes,
        metadata=execution.metadata,
        metadata_text=execution.metadata_text,
        webhook=outbox.request_of(execution),
        retried_from=execution,
    )


def work_of(execution: Execution) -> submission.Work:
    """Rebuild the work of an execution. Files that its app lent to it are lent again."""
    app = execution.app
    again = submission.read(execution.graph.submitted, user=execution.user)
    lent = frozenset((app or {}).get("files", ()))
    graph = execution.graph
    extras, output = partner_keys.without(graph.extras), plan.again(graph.output)
    return replace(again, app=app, inputs=graph.inputs, lent=lent, extras=extras, output=output)


def cancel(*, execution: Execution, by: str = "its user") -> None:
    """Cancel it; it is terminal on return. Raises Conflict if it had already ended."""
    if not state_machine.cancel(execution.id, by=by):
        execution.refresh_from_db(fields=["status"])
        raise Conflict(f"The execution has ended already; it is {execution.status}")


def prioritise(*, execution: Execution, priority: str, by: str) -> None:
    """Move a waiting execution to the place that a new submission with that priority would get.

    No-op if it already has that priority. Raises Conflict if a worker has claimed it.
    """
    with transaction.atomic():
        scheduling.lock_submissions(user_id=execution.user_id)
        execution.refresh_from_db(fields=["priority", "status"])
        if execution.priority == priority:
            return
        to = scheduling.place(kind=execution.kind, user_id=execution.user_id, priority=priority)
        if not state_machine.move(execution.id, priority=priority, place=to, by=by):
            raise Conflict("Only an execution that waits for a worker can be moved in the queue")


def delete(*, execution: Execution) -> None:
    """Delete an ended execution and its files, except files that others need. Conflict if not ended."""
    if execution.status in ALIVE:
        raise Conflict(f"Cancel the execution before you delete it; it is {execution.status}")
    deletion.remove(Execution.objects.filter(id=execution.id, status__in=TERMINAL))
