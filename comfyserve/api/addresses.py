"""The public base URL of this service."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest


def base_of(request: HttpRequest) -> str:
    """Such as `http://localhost:8000`; PUBLIC_URL if set. Without a trailing slash."""
    return settings.PUBLIC_URL or f"{request.scheme}://{request.get_host()}"
