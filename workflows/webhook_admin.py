"""Webhooks for the operator: what went out, what came back, and sending again."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline

from . import webhooks
from .webhook_models import Delivery, DeliveryAttempt


class AttemptInline(TabularInline):  # type: ignore[misc]
    model = DeliveryAttempt
    fields = readonly_fields = ["at", "status_code", "duration_ms", "answer", "error"]
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return False


@admin.register(Delivery)
class DeliveryAdmin(ModelAdmin):  # type: ignore[misc]
    list_display = ["event", "execution_id", "user", "host", "state", "tries", "due_at", "created_at"]
    list_filter = ["state", "event"]
    search_fields = ["=execution__id", "user__email", "host", "=message_id"]
    list_select_related = ["user"]
    ordering = ["-id"]
    inlines = [AttemptInline]
    actions = ["redeliver"]

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        return False

    def has_change_permission(self, request: HttpRequest, obj: Delivery | None = None) -> bool:  # noqa: ARG002
        return False

    @admin.action(description="Send the chosen deliveries again", permissions=["view"])
    def redeliver(self, request: HttpRequest, rows: QuerySet[Delivery]) -> None:
        # The list is ordered and joined; an update takes neither.
        again = webhooks.send_again(Delivery.objects.filter(id__in=[row.id for row in rows]))
        self.message_user(request, f"{again} deliveries are sent again")
