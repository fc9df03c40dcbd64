"""The sidebar: sections of pages, filtered by permission. Adding a page takes one line here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse


@dataclass(frozen=True)
class Rows:
    """A model's changelist; shown if the model is registered in the admin."""

    title: str
    icon: str  # from Material Symbols, which unfold bundles
    model: str  # app_label.ModelName

    def link(self, request: HttpRequest) -> str | None:
        try:
            model = apps.get_model(self.model)
        except LookupError:
            return None
        if not admin.site.is_registered(model):
            return None
        if not admin.site.get_model_admin(model).has_view_permission(request):
            return None
        return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


@dataclass(frozen=True)
class Page:
    """A named URL of this service."""

    title: str
    icon: str
    name: str

    def link(self, request: HttpRequest) -> str | None:  # noqa: ARG002
        return reverse(self.name)


@dataclass(frozen=True)
class Elsewhere:
    """Another service, by the setting that holds its URL; shown if that is set."""

    title: str
    icon: str
    setting: str

    def link(self, request: HttpRequest) -> str | None:  # noqa: ARG002
        return getattr(settings, self.setting) or None


SECTIONS: list[tuple[str, list[Rows | Page | Elsewhere]]] = [
    (
        "",
        [
            Page("Dashboard", "monitoring", "admin:index"),
            Rows("Executions", "photo_library", "workflows.Execution"),
            Rows("Apps", "apps", "apps_catalog.App"),
            Rows("App versions", "history", "apps_catalog.AppVersion"),
        ],
    ),
    (
        "Machines",
        [
            Rows("Workers", "memory", "workflows.Worker"),
            Rows("Models", "deployed_code", "models_registry.Model"),
            Rows("Node rules", "rule", "workflows.NodeRule"),
        ],
    ),
    (
        "Results",
        [
            Rows("Files", "folder_open", "files.File"),
            Rows("Destinations", "cloud_upload", "files.Destination"),
            Rows("Deliveries of files", "outbox", "workflows.OutputDelivery"),
            Rows("Webhook deliveries", "webhook", "workflows.Delivery"),
        ],
    ),
    (
        "Accounts",
        [
            Rows("Users", "group", "accounts.User"),
            Rows("API keys", "key", "accounts.ApiKey"),
            Rows("Audit log", "history", "accounts.AuditEntry"),
        ],
    ),
    (
        "Links",
        [
            Elsewhere("Flower", "local_florist", "FLOWER_URL"),
            Page("API documentation", "api", "docs"),
        ],
    ),
]


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """The structure unfold expects: only non-empty sections."""
    if not request.user.is_authenticated:
        return []
    shown = [(title, [_item(entry, request) for entry in entries]) for title, entries in SECTIONS]
    return [
        {"title": title, "separator": bool(title), "items": items}
        for title, found in shown
        if (items := [item for item in found if item])
    ]


def _item(entry: Rows | Page | Elsewhere, request: HttpRequest) -> dict[str, Any] | None:
    link = entry.link(request)
    return {"title": entry.title, "icon": entry.icon, "link": link} if link else None
