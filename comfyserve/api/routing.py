"""Which requests last long, and so belong to the ASGI half of the server."""

from __future__ import annotations

from typing import Any


def is_long(scope: dict[str, Any]) -> bool:
    """Live streams (`…/events`), waits (`Prefer: wait`, a GPU that is to load a model) and file transfers."""
    path = scope["path"].rstrip("/")
    if path.endswith("/events") or path == "/files/upload":
        return True
    if path.startswith("/models/") and scope["method"] == "POST":
        return True
    if path.startswith("/files/") and not path.endswith("/info"):
        return scope["method"] in ("GET", "HEAD")
    return any(name == b"prefer" and b"wait" in value for name, value in scope["headers"])
