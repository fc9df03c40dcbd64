"""The audit log in the console: read and search only. Rows cannot be changed or deleted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.contrib.filters.admin import RangeDateTimeFilter

from accounts.audit_models import AuditEntry
from comfyserve.console import html
from comfyserve.console.filters import FieldDropdown
from comfyserve.console.pages import Facts, PageAdmin, Section, Table


@admin.register(AuditEntry)
class AuditAdmin(PageAdmin):
    list_display = ["at", "person", "act", "object", "changed", "note", "via", "address", "request_id"]
    list_display_links = ["at"]
    list_filter = [("at", RangeDateTimeFilter), ("via", FieldDropdown)]
    list_filter_submit = True
    search_fields = ["who", "=action", "object_name", "=object_id", "=request_id", "=address"]
    search_help_text = "User, action (such as login.refused), object, request id, or address"
    ordering = ["-id"]
    sortable_by: list[str] = []

    @admin.display(description="Who")
    def person(self, row: AuditEntry) -> str:
        return row.who or ("the system" if row.via == "system" else "unknown")

    @admin.display(description="Action")
    def act(self, row: AuditEntry) -> Any:
        return html.badge(row.action, "bad" if row.action.endswith(".refused") else "plain")

    @admin.display(description="Object")
    def object(self, row: AuditEntry) -> str:
        return f"{row.object_type} {row.object_name}".strip() or html.NONE

    @admin.display(description="Changes")
    def changed(self, row: AuditEntry) -> str:
        changes = [f"{name}: {old!s:.40} → {new!s:.40}" for name, (old, new) in row.changes.items()]
        return "; ".join(changes)[:200] or html.NONE

    def sections(self, request: HttpRequest, row: AuditEntry) -> Iterable[Section]:  # noqa: ARG002
        yield Facts(
            "Action",
            [
                ("When", f"{row.at:%Y-%m-%d %H:%M:%S} UTC"),
                ("Who", self.person(row)),
                ("User id", row.actor),
                ("Action", row.action),
                ("Object", self.object(row)),
                ("Object id", row.object_id),
                ("Note", row.note),
                ("Via", row.via),
                ("From", row.address),
                ("Request id", row.request_id),
            ],
        )
        changes = [(name, str(old), str(new)) for name, (old, new) in row.changes.items()]
        yield Table("Changes", ["Field", "Before", "After"], changes)
