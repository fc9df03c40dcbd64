from __future__ import annotations

from django.urls import path, register_converter

from . import views
from .pages import page_or


class AppAddress:
    """`name` or `owner/name`, with or without `@version`. Reserved path segments are not names."""

    regex = r"[^/]+(?:/(?!(?:run|batch|schema|versions)(?:/|$))[^/]+)?"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(AppAddress, "app")

urlpatterns = [
    path("", page_or(views.ListView.as_view()), name="apps"),
    path("<app:app>/run", views.RunView.as_view(), name="app-run"),
    path("<app:app>/batch", views.BatchView.as_view(), name="app-batch"),
    path("<app:app>/schema", views.SchemaView.as_view(), name="app-schema"),
    path("<app:app>/versions", views.VersionsView.as_view(), name="app-versions"),
    path("<app:app>", page_or(views.AppView.as_view()), name="app"),
]
