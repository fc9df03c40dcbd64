"""The address of this service as its users see it."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest


def base_of(request: HttpRequest) -> str:
    """Such as `http://localhost:8000`; PUBLIC_URL where that is set. Without a slash at the end."""
    return settings.PUBLIC_URL or f"{request.scheme}://{request.get_host()}"
