"""One port, two halves: live streams and bytes on Django's ASGI handler, all else on its WSGI handler.

Django's WSGI handling of a view costs half the CPU of its ASGI handling of the same view; the ASGI
half carries what lasts long (streams, waits, transfers) without holding a thread for each.
"""

from __future__ import annotations

import os
from typing import Any

from a2wsgi import WSGIMiddleware
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "comfyserve.settings")
asgi = get_asgi_application()

from comfyserve.api.bodies import LimitBodies  # noqa: E402
from comfyserve.api.routing import is_long  # noqa: E402  (after Django's set-up)
from comfyserve.wsgi import application as wsgi_application  # noqa: E402
from health.shutdown import lifespan  # noqa: E402

wsgi = WSGIMiddleware(wsgi_application, workers=16)  # type: ignore[arg-type]
# Probes have threads of their own: they answer also while all others wait for a database that hangs. And
# those that say that the process lives do not wait behind those that ask what else does.
alive = WSGIMiddleware(wsgi_application, workers=2)  # type: ignore[arg-type]
probes = WSGIMiddleware(wsgi_application, workers=6)  # type: ignore[arg-type]
ALIVE = ("/health", "/health/liveness")


async def halves(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif is_long(scope):
        await asgi(scope, receive, send)
    elif scope["path"].rstrip("/") in ALIVE:
        await alive(scope, receive, send)  # type: ignore[arg-type]
    elif scope["path"].startswith("/health/"):
        await probes(scope, receive, send)  # type: ignore[arg-type]
    else:
        await wsgi(scope, receive, send)  # type: ignore[arg-type]


application = LimitBodies(halves)
