"""The operator's actions on executions: the API's own functions, with confirmation and an audit entry."""

from __future__ import annotations

from django import forms
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts.audited_console import apply_to_each
from comfyserve.api.errors import Conflict
from comfyserve.console.confirm_actions import Answer, ask_first
from workflows.models import ALIVE, Delivery, Execution, Priority, Status
from workflows.queue import commands
from workflows.webhooks import outbox

OPERATOR = "an operator"
Rows = QuerySet[Execution]


class PriorityForm(forms.Form):
    priority = forms.ChoiceField(choices=Priority.choices[::-1], label="New priority")


class ExecutionActions:
    """Mixin for the admin of executions. `actions` is what the list offers."""

    actions = ["cancel", "retry", "prioritise", "redeliver", "remove"]

    @ask_first(
        title="Cancel",
        text="They end immediately, running ones too. Ended executions are not affected.",
        button="Yes, cancel",
        danger=True,
    )
    def cancel(self, request: HttpRequest, rows: Rows, answer: Answer) -> None:  # noqa: ARG002
        apply_to_each(
            self, request, rows, lambda row: commands.cancel(execution=row, by=OPERATOR), done="cancelled"
        )

    @ask_first(
        title="Retry",
        text="Each failed or cancelled execution is submitted again, as a new execution of its user.",
        button="Yes, retry",
    )
    def retry(self, request: HttpRequest, rows: Rows, answer: Answer) -> None:  # noqa: ARG002
        def again(row: Execution) -> None:
            commands.retry(user=row.user, execution=row)

        found = rows.select_related("user", "graph")
        apply_to_each(self, request, found, again, done="submitted again")

    @ask_first(
        title="Change priority",
        text="They move to the place that a new submission with that priority would get.",
        button="Yes, change it",
        form=PriorityForm,
    )
    def prioritise(self, request: HttpRequest, rows: Rows, answer: Answer) -> None:
        priority = str(answer["priority"])
        apply_to_each(
            self,
            request,
            rows,
            lambda row: commands.prioritise(execution=row, priority=priority, by=OPERATOR),
            done=f"given priority {priority}",
        )

    @ask_first(
        title="Send webhooks again",
        text="Every finished delivery, successful or not, is sent again under its own id.",
        button="Yes, send again",
    )
    def redeliver(self, request: HttpRequest, rows: Rows, answer: Answer) -> None:  # noqa: ARG002
        def again(row: Execution) -> None:
            if not outbox.send_again(Delivery.objects.filter(execution=row)):
                raise Conflict("It has no finished delivery")

        apply_to_each(self, request, rows, again, done="queued to send its webhooks again")

    @ask_first(
        title="Delete with files",
        text="The executions are deleted with all their outputs. This cannot be undone.",
        button="Yes, delete",
        danger=True,
        permission="remove",
    )
    def remove(self, request: HttpRequest, rows: Rows, answer: Answer) -> None:  # noqa: ARG002
        apply_to_each(self, request, rows, lambda row: commands.delete(execution=row), done="deleted")


def possible(row: Execution, *, ended_deliveries: bool) -> list[tuple[str, str, bool]]:
    """The actions available in the current status: (action, label, whether it is dangerous)."""
    found: list[tuple[str, str, bool]] = []
    if row.status == Status.PENDING and row.claim_token is None:
        found.append(("prioritise", "Change priority", False))
    if row.status in ALIVE:
        found.append(("cancel", "Cancel", True))
    if row.status in (Status.FAILED, Status.CANCELLED):
        found.append(("retry", "Retry", False))
    if ended_deliveries:
        found.append(("redeliver", "Send webhooks again", False))
    if row.status not in ALIVE:
        found.append(("remove", "Delete with files", True))
    return found
