"""URLs of the console's static files. Resolved lazily: settings cannot resolve them at import time."""

from __future__ import annotations

from django.http import HttpRequest
from django.templatetags.static import static


def style(request: HttpRequest) -> str:  # noqa: ARG001
    return static("console/console.css")


def script(request: HttpRequest) -> str:  # noqa: ARG001
    return static("console/console.js")
