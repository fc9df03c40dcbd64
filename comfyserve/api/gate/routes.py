"""How large a request body may be, and how long it may take to arrive: one table for all routes.

Routes not listed accept bodies of 64 KiB. A larger body requires a valid credential before any more of it is
read.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings

from .lanes import DESTINATIONS, PASSWORDS, Lane

SMALL = 64 * 1024  # bytes of a body accepted without a credential
FORM = 64 * 1024  # bytes of an upload's form beside its file
BODY_SECONDS = 15.0  # for any body
BODY_RATE = 32 * 1024  # bytes per second on average, once the seconds have passed
UPLOAD_SECONDS, UPLOAD_RATE = 60.0, 4 * 1024  # the view streams the file, without a thread

# The routes below may carry graphs, batches and inputs.
LARGE = ("/workflows", "/apps", "/batches", "/v1", "/api", "/comfyui", "/mcp", "/prompt")
COMFYUI_UPLOADS = tuple(f"/comfyui{api}/upload/{kind}" for api in ("", "/api") for kind in ("image", "mask"))
UPLOADS = ("/files/upload", "/api/v2/assets", *COMFYUI_UPLOADS)  # read by their views, piece by piece
HASHING = (
    "/auth/register",
    "/auth/login",
    "/auth/password",
    "/auth/password/reset/confirm",
    "/admin/login",
)
PICTURES = ("/v1/images/edits", "/v1/videos")  # a form with pictures, on disk until a view takes them
PICTURES_BYTES = 64 * 1024 * 1024
WRITING = ("POST", "PUT", "PATCH")


@dataclass(frozen=True)
class Route:
    body_bytes: int
    seconds: float = BODY_SECONDS
    rate: int = BODY_RATE
    streamed: bool = False  # the view reads the body itself
    lane: Lane | None = None

    def deadline(self, received: int) -> float:
        """Seconds after the headers by which more must have arrived, given the bytes received so far."""
        return self.seconds + received / self.rate


def route_of(method: str, path: str) -> Route:
    path = path.rstrip("/")
    if method in WRITING:
        if path in UPLOADS and method == "POST":
            limit = settings.MAX_UPLOAD_BYTES + FORM
            return Route(limit, seconds=UPLOAD_SECONDS, rate=UPLOAD_RATE, streamed=True)
        if path in PICTURES:
            limit = min(PICTURES_BYTES, settings.MAX_UPLOAD_BYTES) + FORM
            return Route(limit, seconds=UPLOAD_SECONDS)
        if path in HASHING:
            return Route(_small(), lane=PASSWORDS)
        if path == "/destinations" or path.startswith("/destinations/"):
            return Route(_small(), lane=DESTINATIONS)  # a test file is written to the user's server
        if any(path == start or path.startswith(f"{start}/") for start in LARGE):
            return Route(settings.MAX_BODY_BYTES)
    return Route(_small())


def _small() -> int:
    return min(SMALL, int(settings.MAX_BODY_BYTES))
