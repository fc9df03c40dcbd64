"""An HTTP proxy in front of a ComfyUI that fails as proxies do: error pages, logins, broken responses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from aiohttp import web

PAGE = "<!doctype html><html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>"
# Hop-by-hop: each side has its own connection, so its headers are not forwarded.
PER_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "upgrade", "host", "content-length"}
START_SECONDS = 10.0


@dataclass(frozen=True)
class Trouble:
    """What the proxy does instead of relaying.

    `status` returns an HTML page with that status, without relaying. The others relay first: `lose` closes
    the connection without a response, `truncate` after half of it.
    """

    status: int | None = None
    headers: Mapping[str, str] | None = None
    lose: bool = False
    truncate: bool = False
    delay: float = 0.0  # seconds before a request is relayed


WELL = Trouble()


class HttpProxy:
    """`url` leads to `target_url`, websockets too. Set `trouble` at any time, from any thread."""

    def __init__(self, target_url: str) -> None:
        self.trouble = WELL
        self._target = target_url.rstrip("/")
        self._sockets: set[web.WebSocketResponse] = set()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        if not self._started.wait(START_SECONDS):
            raise RuntimeError("the proxy in front of ComfyUI does not start")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def drop_sockets(self) -> None:
        """Cut every websocket."""
        asyncio.run_coroutine_threadsafe(self._drop_sockets(), self._loop).result(START_SECONDS)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(START_SECONDS)

    # -- the server ---------------------------------------------------------------------------------
    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=2**31)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # One connection per request: one that ComfyUI's death left half-open must not be reused.
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=3)
        self._client = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handle_signals=False)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = int(runner.addresses[0][1])
        self._started.set()
        await self._stopping.wait()
        await self._drop_sockets()
        await self._client.close()
        await runner.cleanup()

    async def _drop_sockets(self) -> None:
        for socket in tuple(self._sockets):
            await socket.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        trouble = self.trouble
        await asyncio.sleep(trouble.delay)
        if trouble.status is not None:
            return _page(trouble.status, trouble.headers)
        try:
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self._relay_socket(request)
            return await self._relay(request, trouble)
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            return _page(502, None)

    async def _relay(self, request: web.Request, trouble: Trouble) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in PER_CONNECTION}
        url = self._target + request.raw_path
        body = await request.read()
        async with self._client.request(
            request.method, url, headers=headers, data=body, allow_redirects=False
        ) as answer:
            content = await answer.read()
            if trouble.lose:
                return _disconnect(request)
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in PER_CONNECTION}
            response = web.StreamResponse(status=answer.status, headers=kept)
            response.content_length = len(content)
            await response.prepare(request)
            await response.write(content[: len(content) // 2] if trouble.truncate else content)
            return _disconnect(request, response) if trouble.truncate else response

    async def _relay_socket(self, request: web.Request) -> web.StreamResponse:
        near = web.WebSocketResponse(max_msg_size=0)
        async with self._client.ws_connect(self._target + request.raw_path, max_msg_size=0) as far:
            await near.prepare(request)
            self._sockets.add(near)
            ways = [asyncio.create_task(_pass_on(a, b)) for a, b in ((near, far), (far, near))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._sockets.discard(near)
                for way in ways:
                    way.cancel()
                await near.close()
        return near


Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


async def _pass_on(source: Socket, sink: Socket) -> None:
    async for message in source:
        if message.type is aiohttp.WSMsgType.TEXT:
            await sink.send_str(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await sink.send_bytes(message.data)


def _page(status: int, headers: Mapping[str, str] | None) -> web.Response:
    text = PAGE.format(f"{status} from the proxy")
    return web.Response(status=status, text=text, content_type="text/html", headers=headers)


def _disconnect(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.close() if response is not None else request.transport.abort()
    return response if response is not None else web.Response()
