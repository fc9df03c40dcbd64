"""Webhooks in the admin: requests, responses and redelivery."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from accounts.audited_console import apply_to_each
from comfyserve.api.errors import Conflict
from comfyserve.console import html
from comfyserve.console.confirm_actions import Answer, ask_first
from comfyserve.console.filters import FieldDropdown
from comfyserve.console.pages import Facts, Offer, PageAdmin, Section, Table
from comfyserve.console.search import ExactSearch, of_user, uuid_of
from workflows.models import Delivery, DeliveryAttempt
from workflows.webhooks import outbox

from . import links

ATTEMPTS_SHOWN = 100


@admin.register(Delivery)
class DeliveryAdmin(ExactSearch, PageAdmin):
    list_display = ["event", "of_execution", "user", "host", "how", "tries", "last_error", "happened"]
    list_filter = [("state", FieldDropdown), ("event", FieldDropdown)]
    list_filter_submit = True
    search_help_text = "Exact execution id, webhook-id, host, or e-mail address of its user"
    list_select_related = ["user"]
    ordering = ["-id"]
    sortable_by: list[str] = []
    actions = ["redeliver"]
    refresh_seconds = 3

    def matching(self, term: str) -> Q:
        if "@" in term:
            return of_user(term)
        if execution_id := uuid_of(term):
            return Q(execution_id=execution_id)
        return Q(message_id=term) if term.startswith("msg_") else Q(host=term.lower())

    @admin.display(description="Execution")
    def of_execution(self, row: Delivery) -> Any:
        return links.to_execution(row.execution_id)

    @admin.display(description="State")
    def how(self, row: Delivery) -> Any:
        return html.badge(row.state, title=row.error)

    @admin.display(description="Last error")
    def last_error(self, row: Delivery) -> str:
        return row.error[:80] or html.NONE

    @admin.display(description="Happened")
    def happened(self, row: Delivery) -> Any:
        return html.ago(row.created_at)

    # -- detail page --------------------------------------------------------------------------------------
    def headline(self, row: Delivery) -> Any:
        return self.how(row)

    def offers(self, row: Delivery) -> list[Offer]:
        return [] if row.state == Delivery.State.WAITING else [("redeliver", "Send again", False)]

    def sections(self, request: HttpRequest, row: Delivery) -> Iterable[Section]:  # noqa: ARG002
        waits = row.state == Delivery.State.WAITING
        yield Facts(
            "Delivery",
            [
                ("Event", row.event),
                ("Execution", self.of_execution(row)),
                ("User", row.user),
                ("To", row.url),
                ("webhook-id", row.message_id),
                ("Happened", html.ago(row.created_at)),
                ("Tries", row.tries),
                ("Next try", f"{row.due_at:%Y-%m-%d %H:%M:%S} UTC" if waits else ""),
                ("Ended", html.ago(row.finished_at)),
                ("Last error", row.error),
            ],
        )
        tries = DeliveryAttempt.objects.filter(delivery=row).order_by("-id")[:ATTEMPTS_SHOWN]
        yield Table(
            "Attempts, latest first",
            ["When", "Status", "Took", "Response", "Error"],
            [
                (
                    html.ago(each.at),
                    each.status_code or html.NONE,
                    f"{each.duration_ms} ms",
                    each.answer,
                    each.error,
                )
                for each in tries
            ],
            empty="None yet.",
        )

    @ask_first(
        title="Send again",
        text="Finished deliveries, successful or not, are sent again under their own webhook-id.",
        button="Yes, send again",
    )
    def redeliver(self, request: HttpRequest, rows: QuerySet[Delivery], answer: Answer) -> None:  # noqa: ARG002
        def again(row: Delivery) -> None:
            if not outbox.send_again(Delivery.objects.filter(id=row.id)):
                raise Conflict("it is not finished yet")

        apply_to_each(self, request, rows, again, done="queued to be sent again")
