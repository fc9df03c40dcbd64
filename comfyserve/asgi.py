"""One port: uploads, conversions and model loads go to Django's ASGI handler, live streams and waits to
`workflows.streaming`, websockets to `doors.comfyui.websocket`, everything else to Django's synchronous
handling in threads. The gate wraps all of them.

Synchronous handling of a view costs half the CPU of Django's ASGI handling of the same view. Django's ASGI
handler keeps a thread for each request that ever needed one, so streams, which last for hours, have their
own.
"""

from __future__ import annotations

import gc
import os
from typing import Any

# Imports create many objects and little garbage: looking for it takes a fifth of the start.
gc.disable()

from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import get_resolver  # noqa: E402

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "comfyserve.settings")
asgi = get_asgi_application()

get_resolver().url_patterns  # noqa: B018  # imports all views now, not with the first request

from accounts import authentication  # noqa: E402
from comfyserve.api.gate.application import Gate  # noqa: E402
from comfyserve.api.gate.threads import DjangoThreads  # noqa: E402
from comfyserve.api.path_keys import PathKeys  # noqa: E402
from comfyserve.api.routing import is_download, is_followed, is_long  # noqa: E402  (after Django's set-up)
from comfyserve.outbound import tcp_transport  # noqa: E402
from comfyserve.wsgi import application as wsgi_application  # noqa: E402
from doors.comfyui.websocket import Websockets  # noqa: E402
from doors.mcp.asgi import McpApplication  # noqa: E402
from health.shutdown import Life  # noqa: E402
from workflows.streaming.asgi import Streams  # noqa: E402

requests = DjangoThreads(wsgi_application, threads=16, name="request")
# Probes have their own threads: they respond even while all others wait for a hanging database. And liveness
# probes do not wait behind probes that check dependencies.
alive = DjangoThreads(wsgi_application, threads=2, name="alive")
probes = DjangoThreads(wsgi_application, threads=6, name="probe")
# The first request for the schema generates it, and all others wait for that: not in the request threads.
schema = DjangoThreads(wsgi_application, threads=2, name="schema")
ALIVE = ("/health", "/health/liveness")
downloads = DjangoThreads(wsgi_application, threads=16, name="download")  # a slow storage blocks only these
streams = Streams(wsgi_application)
agents = McpApplication(wsgi_application, streams)
websockets = Websockets(wsgi_application, streams)


async def dispatch(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    if scope["type"] == "websocket":
        await websockets(scope, receive, send)
        return
    tcp_transport.abort_stalled_writes(send)
    if scope["path"].rstrip("/") == "/mcp":
        await agents(scope, receive, send)
    elif is_followed(scope):
        await streams(scope, receive, send)
    elif is_download(scope):
        await downloads(scope, receive, send)
    elif is_long(scope):
        await asgi(scope, receive, send)
    elif scope["path"].rstrip("/") in ALIVE:
        await alive(scope, receive, send)
    elif scope["path"].rstrip("/") == "/schema":
        await schema(scope, receive, send)
    elif scope["path"].startswith("/health/"):
        await probes(scope, receive, send)
    else:
        await requests(scope, receive, send)


application = PathKeys(Gate(dispatch, user_of=authentication.user_id_of))

gc.freeze()  # what is loaded by now stays: looking through it would stop all threads for 0.1 s
gc.enable()


async def lifespan(receive: Any, send: Any) -> None:
    life = Life()
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            streams.begin()
            life.begin()
        else:
            life.ends()
            await streams.end()
            await life.end()
            websockets.shutdown()
            agents.shutdown()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
