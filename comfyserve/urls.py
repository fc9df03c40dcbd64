"""Root URL configuration. Paths work with and without a trailing slash."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from apps_catalog import openapi
from comfyserve.api import docs
from comfyserve.home import views as home
from doors.mcp import views as mcp
from workflows.api import webhook_views

admin.autodiscover()

urlpatterns = [
    # Most requests go to these two: they are tried first.
    path("workflows/", include("workflows.urls")),
    path("files/", include("files.urls")),
    path("", home.HomeView.as_view(), name="home"),
    path("favicon.ico", home.favicon, name="favicon"),
    path("auth/webhook-secret", webhook_views.SecretView.as_view(), name="webhook-secret"),
    path(
        "auth/webhook-secret/rotate", webhook_views.RotateSecretView.as_view(), name="webhook-secret-rotate"
    ),
    path("auth/", include("accounts.urls")),
    path("apps/", include("apps_catalog.urls")),
    path("api/v2/", include("doors.comfy_v2.urls")),
    path("v1/", include("doors.openai.urls")),
    path("mcp", mcp.EntranceView.as_view(), name="mcp"),
    path("comfyui/", include("doors.comfyui.urls")),
    path("models/", include("models_registry.urls")),
    path("destinations/", include("files.destination_views")),
    path("", include("health.urls")),
    path("schema", openapi.SchemaView.as_view(), name="schema"),
    path("docs", docs.SwaggerView.as_view(url_name="schema"), name="docs"),
    path("redoc", docs.RedocView.as_view(url_name="schema"), name="redoc"),
    path("admin/dashboard/", include("health.dashboard.views")),
    path("admin/bytes/", include("files.console")),
    path("admin/", admin.site.urls),
]

handler400 = "comfyserve.api.errors.handler400"
handler403 = "comfyserve.api.errors.handler403"
handler404 = "comfyserve.api.errors.handler404"
handler500 = "comfyserve.api.errors.handler500"
