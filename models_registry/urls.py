"""URLs under /models/. A model's name may have subfolders, so the specific ones come first."""

from __future__ import annotations

from django.urls import path, register_converter

from . import views


class NameConverter:
    """A name with its subfolders. Without a trailing slash: that one belongs to the URL."""

    regex = "[^/](?:.*[^/])?"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(NameConverter, "model")

urlpatterns = [
    path("", views.ListView.as_view(), name="models"),
    path("cleanup", views.CleanupView.as_view(), name="models-cleanup"),
    path("<model:model_name>/download", views.DownloadView.as_view(), name="model-download"),
    path(
        "<model:model_name>/download-progress", views.ProgressView.as_view(), name="model-download-progress"
    ),
    path("<model:model_name>/load", views.LoadView.as_view(), name="model-load"),
    path("<model:model_name>/unload", views.UnloadView.as_view(), name="model-unload"),
    path("<model:model_name>", views.StatusView.as_view(), name="model"),
]
