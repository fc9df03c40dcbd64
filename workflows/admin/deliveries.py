"""Users' destinations, and the delivery of output files, in the admin. No secret is shown or can be set."""

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
from files.models import Destination
from workflows.delivery import redelivery
from workflows.models import OutputDelivery

from . import links

SHOWN = 100  # deliveries on the page of a destination
State = OutputDelivery.State


@admin.register(OutputDelivery)
class OutputDeliveryAdmin(ExactSearch, PageAdmin):
    list_display = ["filename", "of_execution", "user", "to", "how", "tries", "last_error", "since"]
    list_filter = [("state", FieldDropdown)]
    list_filter_submit = True
    search_help_text = "Exact execution id, destination, or e-mail address of its user"
    list_select_related = ["user", "destination"]
    ordering = ["-id"]
    sortable_by: list[str] = []
    actions = ["redeliver"]
    refresh_seconds = 3

    def matching(self, term: str) -> Q:
        if "@" in term:
            return of_user(term)
        if execution_id := uuid_of(term):
            return Q(execution_id=execution_id)
        named = Destination.objects.filter(name__iexact=term)
        return Q(destination_id__in=list(named.values_list("id", flat=True)))

    @admin.display(description="Execution")
    def of_execution(self, row: OutputDelivery) -> Any:
        return links.to_execution(row.execution_id)

    @admin.display(description="To")
    def to(self, row: OutputDelivery) -> Any:
        return links.to_page(row.destination) if row.destination else html.NONE if not row.url else "a URL"

    @admin.display(description="State")
    def how(self, row: OutputDelivery) -> Any:
        return html.badge(row.state, title=row.error)

    @admin.display(description="Last error")
    def last_error(self, row: OutputDelivery) -> str:
        return row.error[:80] or html.NONE

    @admin.display(description="Since")
    def since(self, row: OutputDelivery) -> Any:
        return html.ago(row.created_at)

    # -- detail page --------------------------------------------------------------------------------------
    def headline(self, row: OutputDelivery) -> Any:
        return self.how(row)

    def offers(self, row: OutputDelivery) -> list[Offer]:
        possible = row.state != State.WAITING and row.destination_id is not None
        return [("redeliver", "Deliver again", False)] if possible else []

    def sections(self, request: HttpRequest, row: OutputDelivery) -> Iterable[Section]:  # noqa: ARG002
        waits = row.state == State.WAITING
        yield Facts(
            "Delivery",
            [
                ("File", row.filename),
                ("Execution", self.of_execution(row)),
                ("User", row.user),
                ("Destination", links.to_page(row.destination) if row.destination else ""),
                ("To", row.url),
                ("Since", html.ago(row.created_at)),
                ("Tries", row.tries),
                ("Next try", f"{row.due_at:%Y-%m-%d %H:%M:%S} UTC" if waits else ""),
                ("Ended", html.ago(row.finished_at)),
                ("Last error", row.error),
            ],
        )

    @ask_first(
        title="Deliver again",
        text="Finished deliveries, successful or not, are sent to their destination again. A URL that was "
        "given for one run is no longer stored: only its user can give another one.",
        button="Yes, deliver again",
    )
    def redeliver(self, request: HttpRequest, rows: QuerySet[OutputDelivery], answer: Answer) -> None:  # noqa: ARG002
        apply_to_each(self, request, rows, redelivery.redeliver_one, done="queued to be delivered again")


@admin.register(Destination)
class DestinationAdmin(PageAdmin):
    list_display = ["name", "user", "endpoint", "bucket", "prefix", "failed", "tested"]
    search_fields = ["=name", "=user__email", "=bucket"]
    search_help_text = "Exact name, bucket, or e-mail address of its user"
    list_select_related = ["user"]
    ordering = ["-id"]
    sortable_by: list[str] = []
    actions = ["redeliver"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Destination]:
        rows: QuerySet[Destination] = super().get_queryset(request)
        return rows.defer("secret").annotate(failures=redelivery.failures())

    @admin.display(description="Not delivered")
    def failed(self, row: Any) -> Any:
        return html.badge(html.number(row.failures), "bad") if row.failures else html.NONE

    @admin.display(description="Saved and tested")
    def tested(self, row: Destination) -> Any:
        return html.ago(row.updated_at)

    # -- detail page --------------------------------------------------------------------------------------
    def headline(self, row: Any) -> Any:
        return html.badge(f"{html.number(row.failures)} not delivered", "bad") if row.failures else ""

    def offers(self, row: Any) -> list[Offer]:
        return [("redeliver", "Deliver what failed again", False)] if row.failures else []

    def sections(self, request: HttpRequest, row: Destination) -> Iterable[Section]:  # noqa: ARG002
        yield Facts(
            "Destination",
            [
                ("Name", row.name),
                ("User", row.user),
                ("Endpoint", row.endpoint),
                ("Region", row.region),
                ("Bucket", row.bucket),
                ("Prefix", row.prefix),
                ("Access key", row.access_key),
                ("Secret", "stored encrypted, never shown"),
                ("Saved", html.ago(row.created_at)),
                ("Tested", html.ago(row.updated_at)),
            ],
        )
        failed = OutputDelivery.objects.filter(destination=row, state=State.FAILED).order_by("-id")
        yield Table(
            f"Not delivered, the latest {SHOWN}",
            ["File", "Execution", "Ended", "Tries", "Error"],
            [
                (
                    links.to_page(each, each.filename),
                    links.short(each.execution_id),
                    html.ago(each.finished_at),
                    each.tries,
                    each.error,
                )
                for each in failed[:SHOWN]
            ],
            empty="Nothing failed.",
        )

    @ask_first(
        title="Deliver what failed again",
        text="Every file whose delivery to these destinations failed is sent again.",
        button="Yes, deliver again",
    )
    def redeliver(self, request: HttpRequest, rows: QuerySet[Destination], answer: Answer) -> None:  # noqa: ARG002
        def again(row: Destination) -> None:
            if not redelivery.redeliver_failed(destination=row):
                raise Conflict("nothing failed")

        apply_to_each(self, request, rows, again, done="set to be delivered to again")
