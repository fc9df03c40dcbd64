"""Other addresses of ComfyUI's routes: `/c/<key>/…` for clients that send no header, and hosts of their own.

The path becomes that under `/comfyui`, and the key a header, before anything else sees the request: neither
the request log nor an error report has the key in an address.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings
from django.http import HttpRequest

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DOOR = "/comfyui"
PREFIX = "/c"
IN_PATH = "comfyserve.path_key"  # in the scope of a request whose key stood in its path
KEY = re.compile(r"csk_[A-Za-z0-9_-]{20,100}")


class PathKeys:
    """The outermost ASGI application."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            scope = _translated(scope)
        await self._app(scope, receive, send)


def is_in_path(request: HttpRequest) -> bool:
    return bool(getattr(request, "scope", {}).get(IN_PATH))


def _translated(scope: Scope) -> Scope:
    path = str(scope["path"])
    if path == PREFIX or path.startswith(f"{PREFIX}/"):
        key, _, rest = path.removeprefix(PREFIX).removeprefix("/").partition("/")
        if not KEY.fullmatch(key):
            return _at(scope, PREFIX)  # a 404 that does not repeat the malformed key
        headers = [pair for pair in scope["headers"] if pair[0] != b"authorization"]
        headers.append((b"authorization", f"Bearer {key}".encode()))
        return {**_at(scope, f"{DOOR}/{rest}"), "headers": headers, IN_PATH: True}
    if settings.COMFYUI_DOOR_HOSTS and _host(scope) in settings.COMFYUI_DOOR_HOSTS:
        return scope if path.startswith(f"{DOOR}/") else _at(scope, DOOR + path)
    return scope


def _at(scope: Scope, path: str) -> Scope:
    return {**scope, "path": path, "raw_path": path.encode()}


def _host(scope: Scope) -> str:
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    return (
        host.decode("latin-1").rpartition(":")[0].lower() if b":" in host else host.decode("latin-1").lower()
    )
