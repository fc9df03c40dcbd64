"""All routes of the code, including those missing from the schema, such as the console's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any


def routes() -> list[str]:
    """Each path, with {name} for a parameter."""
    os.environ.setdefault("SECRET_KEY", "only for listing the routes: nothing is signed or stored with it")
    os.environ.setdefault("DATABASE_URL", "postgres://localhost/none")  # never connected to
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "comfyserve.settings")
    import django
    from django.urls import get_resolver

    django.setup()
    return sorted(set(_walk(get_resolver().url_patterns, "/")))


def _walk(patterns: list[Any], before: str) -> Iterator[str]:
    for pattern in patterns:
        text = re.sub(r"<(?:[^>:]+:)?([^>]+)>", r"{\1}", str(pattern.pattern))
        if not re.search(r"[\\^$?(]", text):  # a regular expression names no single path
            if hasattr(pattern, "url_patterns"):
                yield from _walk(pattern.url_patterns, before + text)
            else:
                yield before + text
