"""Which requests are long-lived, and so belong to the ASGI half of the server."""

from __future__ import annotations

from typing import Any

from .gate.routes import COMFYUI_UPLOADS

# Whoever asks here waits for the pictures.
WAITING = ("/v1/images/generations", "/v1/images/edits")

# Headers of submissions whose response lasts as long as the execution.
LASTING = {b"prefer": b"wait", b"accept": b"text/event-stream"}

PLAIN_DOWNLOAD = {b"signature", b"expires", b"download"}  # parameters that ask for no conversion


def is_followed(scope: dict[str, Any]) -> bool:
    """Live streams (`…/events`), submissions that wait (`Prefer: wait`) or are followed by a stream, and
    results with their files.
    """
    path = str(scope["path"]).rstrip("/")
    if path in WAITING:
        return str(scope["method"]) == "POST"
    if path == "/workflows/execute" or (path.startswith("/apps/") and path.endswith("/run")):
        return any(name in LASTING and LASTING[name] in value.lower() for name, value in scope["headers"])
    if path.startswith("/workflows/") and b"include=" in scope["query_string"]:
        return True  # maybe files, which a slow storage has
    return path.startswith(("/workflows/", "/api/v2/jobs/")) and path.endswith("/events")


def is_download(scope: dict[str, Any]) -> bool:
    """Files as they are stored: they wait for nothing but the storage."""
    path = str(scope["path"])
    if scope["method"] not in ("GET", "HEAD") or not path.startswith("/files/"):
        return False
    names = {pair.partition(b"=")[0] for pair in bytes(scope["query_string"]).split(b"&") if pair}
    return names <= PLAIN_DOWNLOAD and not path.rstrip("/").endswith(("/info", "/files"))


def is_long(scope: dict[str, Any]) -> bool:
    """Model loads that wait for a GPU (`Prefer: wait`), and file transfers."""
    path = str(scope["path"]).rstrip("/")
    if path == "/files/upload" or (path == "/api/v2/assets" and scope["method"] == "POST"):
        return True
    if path in ("/comfyui/view", "/comfyui/api/view", *COMFYUI_UPLOADS):
        return True
    if path.startswith("/api/v2/assets/") and path.endswith("/content"):
        return True
    if path.startswith("/models/") and scope["method"] == "POST":
        return True
    return path.startswith("/files/") and not path.endswith("/info") and scope["method"] in ("GET", "HEAD")
