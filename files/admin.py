"""Files in the console: contents, owner and expiry; and deletion."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html

from accounts.audited_console import apply_to_each
from comfyserve.console import html
from comfyserve.console.confirm_actions import Answer, ask_first
from comfyserve.console.filters import FieldDropdown
from comfyserve.console.pages import Facts, Offer, PageAdmin, Pictures, Section, Table
from comfyserve.console.search import ExactSearch, of_user

from . import console, pins, types
from .models import File, Pin

SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@admin.register(File)
class FileAdmin(ExactSearch, PageAdmin):
    list_display = ["picture", "filename", "user", "kind", "type_", "bytes_", "pinned", "stored", "expires"]
    list_display_links = ["filename"]
    list_filter = [("kind", FieldDropdown)]
    search_help_text = "Exact file id, SHA-256, or e-mail address of its user"
    list_select_related = ["user"]
    ordering = ["-created_at"]
    sortable_by: list[str] = []
    actions = ["remove"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[File]:
        needed = Exists(Pin.objects.filter(file=OuterRef("pk")))
        return super().get_queryset(request).annotate(is_pinned=needed)  # type: ignore[no-any-return]

    def matching(self, term: str) -> Q:
        if "@" in term:
            return of_user(term)
        return Q(sha256=term.lower()) if SHA256.fullmatch(term) else Q(id=term.lower())

    @admin.display(description="Picture")
    def picture(self, row: File) -> Any:
        text = f"Thumbnail of {row.filename}" if row.may_have_thumbnail else "No thumbnail"
        return html.picture(console.thumbnail_of(row), text=text)

    @admin.display(description="Type")
    def type_(self, row: File) -> str:
        return row.content_type

    @admin.display(description="Size")
    def bytes_(self, row: File) -> str:
        return html.size(row.size)

    @admin.display(description="Pinned")
    def pinned(self, row: Any) -> Any:
        return html.badge("pinned", "busy", title="An execution may need it") if row.is_pinned else html.NONE

    @admin.display(description="Stored")
    def stored(self, row: File) -> Any:
        return html.ago(row.created_at)

    @admin.display(description="Expires")
    def expires(self, row: File) -> str:
        return f"{row.expires_at:%Y-%m-%d %H:%M} UTC" if row.expires_at else "never"

    # -- detail page --------------------------------------------------------------------------------------
    def headline(self, row: Any) -> Any:
        return self.pinned(row) if row.is_pinned else html.badge(row.kind)

    def offers(self, row: File) -> list[Offer]:  # noqa: ARG002
        return [("remove", "Delete", True)]

    def sections(self, request: HttpRequest, row: File) -> Iterable[Section]:  # noqa: ARG002
        address = console.address_of(row)
        if row.content_type.startswith("image/") and types.is_shown(row.content_type):
            image = format_html('<img src="{}" alt="{}" loading="lazy">', address, row.filename)
            yield Pictures("Picture", [image])
        yield Facts(
            "File",
            [
                ("Id", format_html('<span class="cs-mono">{}</span>', row.pk)),
                ("Name", format_html('<a href="{}">{}</a>', address, row.filename)),
                ("User", row.user),
                ("Kind", row.kind),
                ("Type", row.content_type),
                ("Size", f"{html.size(row.size)}, {row.size:,} bytes"),
                ("Pixels", f"{row.width} x {row.height}" if row.width else ""),
                ("Description", row.description),
                ("SHA-256", format_html('<span class="cs-mono">{}</span>', row.sha256)),
                ("Storage key", row.key),
                ("Stored", html.ago(row.created_at)),
                ("Expires", self.expires(row)),
            ],
        )
        holders = Pin.objects.filter(file=row).values_list("holder", flat=True)[:50]
        yield Table("Pinned by executions", ["Execution"], [(str(each),) for each in holders], empty="None.")

    @ask_first(
        title="Delete",
        text="The files are deleted, with their bytes unless other files share them. Their executions stay, "
        "and show them as deleted. A file that a waiting or running execution needs is kept.",
        button="Yes, delete",
        danger=True,
        permission="remove",
    )
    def remove(self, request: HttpRequest, rows: QuerySet[File], answer: Answer) -> None:  # noqa: ARG002
        apply_to_each(self, request, rows, pins.delete, done="deleted")
