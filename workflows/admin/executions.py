"""Executions in the admin: the list and the page of one. Read-only."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.views.main import ALL_VAR
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.views import ChangeList

from comfyserve.console import html
from comfyserve.console.admin import ReadOnlyAdmin
from comfyserve.console.confirm_actions import button_of
from comfyserve.console.filters import FieldDropdown
from comfyserve.console.search import cleaned, uuid_of
from files import console as bytes_
from files.models import File
from workflows.models import ALIVE, Execution, Output, Status

from . import actions, detail, filters, links

STOP_POLLING = 286  # tells htmx to stop polling
FOLLOWED = 100  # list rows refreshed by one request


class ExecutionList(ChangeList):  # type: ignore[misc]
    """Bounds what a page costs. Attaches the first image of each of its rows, in one query."""

    result_list: Any
    root_queryset: Any
    compared_since: datetime | None = None

    def get_filters(self, request: HttpRequest) -> Any:
        """Also leaves out, before they and the search are applied, what they are not compared with."""
        found = super().get_filters(request)
        text = cleaned(self.query)
        if not self.show_all and not uuid_of(text):
            chosen = [each for each in found[0] if each.value()]
            rows = self.root_queryset
            self.compared_since = filters.compared_since(request, rows, chosen, searched=bool(text))
            if self.compared_since:
                self.root_queryset = rows.filter(created_at__gt=self.compared_since)
        return found

    def link_to_all(self) -> str:
        return str(self.get_query_string({ALL_VAR: ""}))

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        rows: list[Any] = list(self.result_list) if self.result_count else []  # without reading none again
        pictures = first_pictures([row.pk for row in rows])
        for row in rows:
            row.first_picture = pictures.get(row.pk)
        self.result_list = rows


def first_pictures(ids: Sequence[UUID]) -> dict[UUID, File]:
    found = (
        Output.objects.filter(
            execution_id__in=ids, file__content_type__startswith="image/", file__width__isnull=False
        )
        .exclude(file__thumbnail_key=File.NONE)
        .select_related("file")
        .order_by("execution_id", "temporary", "position")
        .distinct("execution_id")
    )
    return {output.execution_id: output.file for output in found if output.file is not None}


@admin.register(Execution)
class ExecutionAdmin(actions.ExecutionActions, ReadOnlyAdmin):
    list_display = [
        "picture", "name", "user", "state", "waited", "ran",
        "used_model", "worker", "rank", "submitted",
    ]  # fmt: skip
    list_display_links = ["name"]
    list_select_related = ["user"]
    list_filter = [
        ("status", filters.StatusFilter),
        ("priority", FieldDropdown),
        filters.UserFilter,
        filters.WorkerFilter,
        filters.ModelFilter,
        filters.CauseFilter,
        filters.SubmittedFilter,
    ]
    list_filter_submit = True
    list_before_template = "workflows/executions_live.html"
    search_fields = ["id"]  # get_search_results defines how
    search_help_text = f"Id, user, or text of an error, among the latest {filters.SEARCHED_ERRORS:,} failures"
    ordering = ["-created_at"]
    sortable_by = ["submitted"]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:  # noqa: ARG002
        return ExecutionList

    def get_search_results(
        self, request: HttpRequest, rows: QuerySet[Execution], term: str  # noqa: ARG002
    ) -> tuple[QuerySet[Execution], bool]:  # fmt: skip
        term = cleaned(term)
        if not term:
            return rows, False
        if execution_id := uuid_of(term):
            return rows.filter(id=execution_id), False
        return rows.filter(
            filters.with_error_like(term, rows) | Q(user_id__in=filters.users_like(term))
        ), False

    # -- columns ------------------------------------------------------------------------------------------
    @admin.display(description="Picture")
    def picture(self, row: Any) -> SafeString:
        file = row.first_picture
        text = f"Picture of {row.pk}" if file else "No picture"
        return html.picture(bytes_.thumbnail_of(file) if file else None, text=text)

    @admin.display(description="Id")
    def name(self, row: Execution) -> SafeString:
        return format_html('<span class="cs-mono" title="{}">{}</span>', row.pk, links.short(row.pk))

    @admin.display(description="State")
    def state(self, row: Execution) -> SafeString:
        badge = html.badge(row.status, title=row.error or "")
        far = html.progress(row.percentage, label=f"Progress of {row.pk}")
        return _cell("state", row, format_html("{} {}", badge, far if row.status == Status.RUNNING else ""))

    @admin.display(description="Waited")
    def waited(self, row: Execution) -> SafeString:
        return _cell("waited", row, html.duration(detail.waited(row, timezone.now())))

    @admin.display(description="Ran")
    def ran(self, row: Execution) -> SafeString:
        return _cell("ran", row, html.duration(detail.ran(row, timezone.now())))

    @admin.display(description="Model")
    def used_model(self, row: Execution) -> str:
        return detail.model_of(row) or html.NONE

    @admin.display(description="Priority")
    def rank(self, row: Execution) -> SafeString:
        return html.badge(row.priority)

    @admin.display(description="Submitted", ordering="created_at")
    def submitted(self, row: Execution) -> SafeString:
        return format_html('<span class="cs-cell">{}</span>', html.ago(row.created_at))

    # -- pages --------------------------------------------------------------------------------------------
    def get_urls(self) -> list[URLPattern]:
        def own(route: str, view: Any, name: str) -> URLPattern:
            guarded = self.admin_site.admin_view(view)
            made: URLPattern = path(route, guarded, name=f"workflows_execution_{name}")
            return made

        return [
            own("live/", self.live_rows_view, "rows"),
            own("<uuid:execution_id>/live/", self.live_view, "live"),
            own("<uuid:execution_id>/log/", self.log_view, "log"),
            own("<uuid:execution_id>/workflow.json", self.workflow_view, "workflow"),
            *super().get_urls(),
        ]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None  # noqa: ARG002
    ) -> HttpResponse:  # fmt: skip
        execution_id = uuid_of(object_id)
        if execution_id is None:
            raise Http404
        row = self._found(request, execution_id)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Execution {links.short(row.pk)}",
            "opts": self.opts,
            "original": row,
            **self._live(request, row),
            **detail.fixed(row),
            **detail.log(row),
        }
        return TemplateResponse(request, "workflows/execution.html", context)

    def live_view(self, request: HttpRequest, execution_id: UUID) -> HttpResponse:
        """The self-refreshing part of the page."""
        row = self._found(request, execution_id)
        status = 200 if row.status in ALIVE else STOP_POLLING
        context = self._live(request, row)
        return TemplateResponse(request, "workflows/execution_live.html", context, status=status)

    def log_view(self, request: HttpRequest, execution_id: UUID) -> HttpResponse:
        """Lines after the last one that the page has."""
        after = request.GET.get("after", "")
        if not after.isdecimal() or len(after) > 18:
            raise Http404
        context = detail.log(self._found(request, execution_id), after=int(after))
        return TemplateResponse(request, "workflows/execution_log.html", context)

    def workflow_view(self, request: HttpRequest, execution_id: UUID) -> HttpResponse:
        text = detail.workflow_text(self._found(request, execution_id))
        headers = {"Content-Disposition": f'attachment; filename="{execution_id}.json"'}
        return HttpResponse(text, content_type="application/json", headers=headers)

    def live_rows_view(self, request: HttpRequest) -> HttpResponse:
        """The changing cells of the given list rows."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            ids = [uuid.UUID(each) for each in request.GET.getlist("id")[:FOLLOWED]]
        except ValueError:
            raise Http404 from None
        rows = list(Execution.objects.filter(id__in=ids))
        alive = any(row.status in ALIVE for row in rows)
        cells = (self.state, self.waited, self.ran)
        shown = [cell(row) for row in rows for cell in cells]
        return HttpResponse("".join(shown), status=200 if alive else STOP_POLLING)

    def _found(self, request: HttpRequest, execution_id: UUID) -> Execution:
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = detail.execution_for_page(execution_id)
        if row is None:
            raise Http404
        return row

    def _live(self, request: HttpRequest, row: Execution) -> dict[str, Any]:
        found = detail.live(row)
        possible = actions.possible(row, ended_deliveries=found["ended_deliveries"])
        buttons = [
            button_of(self, row, action, label, danger=danger)
            for action, label, danger in possible
            if self._permits(request, action)
        ]
        return {
            **found,
            "buttons": buttons,
            "page": reverse("admin:workflows_execution_change", args=[row.pk]),
            "live": reverse("admin:workflows_execution_live", args=[row.pk]),
        }

    def _permits(self, request: HttpRequest, action: str) -> bool:
        if action == "remove":
            return self.has_remove_permission(request)
        return self.has_operate_permission(request)


def _cell(name: str, row: Execution, shown: Any) -> SafeString:
    """A fragment that htmx swaps in by its id, wherever it is on the page (out of band)."""
    return format_html('<span id="{}-{}" class="cs-cell" hx-swap-oob="true">{}</span>', name, row.pk, shown)
