"""Apps and their versions in the admin: read-only, except for deleting an app."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts.audited_console import apply_to_each
from comfyserve.console.admin import ReadOnlyAdmin
from comfyserve.console.confirm_actions import Answer, ask_first

from . import catalog
from .models import App, AppVersion


@admin.register(App)
class AppAdmin(ReadOnlyAdmin):
    list_display = ["address", "title", "visibility", "latest", "created_at"]
    list_filter = ["visibility"]
    search_fields = ["name", "title", "=owner__email"]
    list_select_related = ["owner"]
    ordering = ["-id"]
    actions = ["remove"]

    @ask_first(
        title="Delete",
        text="The apps go with all their versions. What was made with them stays.",
        button="Yes, delete",
        danger=True,
        permission="remove",
    )
    def remove(self, request: HttpRequest, rows: QuerySet[App], answer: Answer) -> None:  # noqa: ARG002
        apply_to_each(self, request, rows.select_related("owner"), catalog.remove, done="deleted")


@admin.register(AppVersion)
class AppVersionAdmin(ReadOnlyAdmin):
    list_display = ["app", "number", "created_at"]
    search_fields = ["=app__name"]
    list_select_related = ["app__owner"]
    ordering = ["-created_at"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[AppVersion]:
        rows: QuerySet[AppVersion] = super().get_queryset(request)
        return rows.defer("workflow", "prompt")
