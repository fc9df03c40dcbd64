"""File contents for console pages, for operators: with their session, from the console's own URL."""

from __future__ import annotations

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.urls import path, reverse

from . import queries, transfer
from .models import File

ENOUGH = ("files.view_file", "workflows.view_execution")  # either: the page of an execution shows its outputs


def content(request: HttpRequest, file_id: str) -> HttpResponseBase:
    return transfer.whole(_permitted(request, file_id), thumbnail=False)


def thumbnail(request: HttpRequest, file_id: str) -> HttpResponseBase:
    return transfer.whole(_permitted(request, file_id), thumbnail=True)


def _permitted(request: HttpRequest, file_id: str) -> File:
    if not any(request.user.has_perm(permission) for permission in ENOUGH):
        raise PermissionDenied
    return queries.file_of(file_id=file_id)


def address_of(file: File) -> str:
    return reverse("console-file", args=[file.pk])


def thumbnail_of(file: File) -> str | None:
    """None if it has none."""
    return reverse("console-thumbnail", args=[file.pk]) if file.may_have_thumbnail else None


urlpatterns = [
    path("<str:file_id>/", admin.site.admin_view(content), name="console-file"),
    path("<str:file_id>/thumbnail/", admin.site.admin_view(thumbnail), name="console-thumbnail"),
]
