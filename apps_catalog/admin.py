"""Apps and their versions in the console: to look at, and to delete an app."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from comfyserve.console.admin import ReadOnlyAdmin

from .models import App, AppVersion


@admin.register(App)
class AppAdmin(ReadOnlyAdmin):
    list_display = ["address", "title", "visibility", "latest", "created_at"]
    list_filter = ["visibility"]
    search_fields = ["name", "title", "=owner__email"]
    list_select_related = ["owner"]
    ordering = ["-id"]


@admin.register(AppVersion)
class AppVersionAdmin(ReadOnlyAdmin):
    list_display = ["app", "number", "created_at"]
    search_fields = ["=app__name"]
    list_select_related = ["app__owner"]
    ordering = ["-created_at"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[AppVersion]:
        rows: QuerySet[AppVersion] = super().get_queryset(request)
        return rows.defer("workflow", "prompt")
