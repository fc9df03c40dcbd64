"""A real HTTP and websocket server that behaves like ComfyUI, and fails on request."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from aiohttp import web

from script.local import ports
from tests.scripted_comfyui import nodes
from tests.scripted_comfyui.engine import Engine
from tests.scripted_comfyui.faults import Faults, Request
from tests.scripted_comfyui.machine import FEATURES
from tests.scripted_comfyui.routes import Routes

T = TypeVar("T")
BRIEF = 30.0  # seconds that a call into the server's thread may take


def _free_port() -> int:
    """Below the ephemeral range, so that no outgoing connection takes it while the server is stopped.

    Not `ports.free_port`, which gives no port twice: there are a thousand of these servers in a run.
    """
    chance = random.SystemRandom()
    tries = (chance.randrange(18_000, 32_000) for _ in range(200))
    return next(port for port in tries if ports.is_free(port) and not ports.is_reserved(port))


class ScriptedComfyUI:
    """Use it as a context manager, or call `start` and `stop`; the port stays the same between.

    It follows the rules of 0.3.75. With `modern` those of versions since 2026: a prompt id must be a UUID,
    an unknown class is `missing_node_type`, answers to uploads have an asset, jobs can be cancelled.

    with ScriptedComfyUI() as comfyui:
        comfyui.classes["Mine"] = NodeClass(run=my_script)
        comfyui.faults.hang.add("/prompt")
        ... comfyui.url ...
        comfyui.wait_for(lambda: comfyui.interrupts, timeout=5)
    """

    def __init__(self, *, port: int = 0, modern: bool = False) -> None:
        self.port = port or _free_port()
        self.gate = threading.Event()  # runs of the class Gate end when it is set
        self.classes = nodes.stock() | {"Gate": nodes.gate(self.gate)}
        self.modern = modern
        self.faults = Faults()
        self.requests: list[Request] = []
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # -- what was asked -------------------------------------------------------------------------

    @property
    def submissions(self) -> list[Request]:
        return self.asked("POST", "/prompt")

    @property
    def interrupts(self) -> list[Request]:
        return self.asked("POST", "/interrupt")

    def asked(self, method: str, path: str) -> list[Request]:
        return [each for each in tuple(self.requests) if (each.method, each.path) == (method, path)]

    def wait_for(self, condition: Callable[[], T], *, timeout: float = 20.0) -> T:
        """What `condition` gives as soon as it is true; it is looked at after everything that happens
        here, so it must only look. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not (value := condition()):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise TimeoutError("it did not come to that")
                self._changed.wait(remaining)
            return value

    # -- what it is made to do ------------------------------------------------------------------

    @property
    def running(self) -> str | None:
        """The id of the prompt that runs."""
        item = self._engine.running
        return item.prompt_id if item is not None else None

    @property
    def pending(self) -> list[str]:
        return [item.prompt_id for item in self._engine.pending]

    @property
    def history(self) -> dict[str, Any]:
        return self._engine.history

    @property
    def sockets(self) -> list[str]:
        """Client ids that are connected."""
        return list(self._sockets)

    def hold(self) -> None:
        """Nothing leaves the queue until `release`. What runs goes on."""
        self._call(self._soon(self._engine.open.clear))

    def release(self) -> None:
        self._call(self._soon(self._engine.open.set))

    def drop_sockets(self) -> None:
        """Cut every websocket, without a word of farewell."""
        self._call(self._soon(self._cut_sockets))

    def send(self, message: str | bytes) -> None:
        """Anything, as it is, to every websocket."""
        self._call(self._send_raw(message))

    def restart(self) -> None:
        """Queue, history, files and what runs are lost, sockets are cut. `requests` is kept."""
        self.stop()
        self.start()

    # -- start and stop -------------------------------------------------------------------------

    def start(self) -> None:
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name="scripted-comfyui", daemon=True
        )
        self._thread.start()
        if not started.wait(BRIEF):
            raise RuntimeError(f"the scripted ComfyUI does not start on port {self.port}")

    def stop(self) -> None:
        """As if killed: sockets and requests in progress are cut, connecting is refused."""
        if self._loop is None or self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(BRIEF)
        self._loop = self._thread = None

    def __enter__(self) -> ScriptedComfyUI:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._sockets: dict[str, tuple[web.WebSocketResponse, asyncio.Transport | None]] = {}
        self._opened: list[asyncio.Transport | None] = []
        self._engine = Engine(classes=self.classes, send=self._send, faults=self.faults)
        routes = Routes(
            self._engine, classes=self.classes, faults=self.faults, note=self._note, modern=self.modern
        )
        app = web.Application(middlewares=[routes.note_and_spoil], client_max_size=100 * 1024 * 1024)
        app.add_routes(routes.table(self._websocket))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05, handle_signals=False)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True).start()
        work = asyncio.create_task(self._engine.run_for_ever())
        started.set()
        await self._stopping.wait()
        work.cancel()
        self._cut_sockets()
        await runner.cleanup()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            raise RuntimeError("the scripted ComfyUI is not running")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(BRIEF)

    async def _soon(self, function: Callable[[], None]) -> None:
        function()

    def _note(self, request: Request) -> None:
        self.requests.append(request)
        self._notice()

    def _notice(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # -- websockets -----------------------------------------------------------------------------

    async def _send(self, client_id: str | None, kind: str, data: Any) -> None:
        """To one client, or to all; bytes go as they are."""
        if not self.faults.silent:
            message = data if isinstance(data, bytes) else json.dumps({"type": kind, "data": data})
            await self._send_raw(message, client_id=client_id)
        self._notice()

    async def _send_raw(self, message: str | bytes, client_id: str | None = None) -> None:
        for name, (socket, _) in tuple(self._sockets.items()):
            if client_id in (None, name):
                try:
                    await (
                        socket.send_bytes(message) if isinstance(message, bytes) else socket.send_str(message)
                    )
                except ConnectionError:
                    pass  # it is about to be noticed by its own handler

    def _cut_sockets(self) -> None:
        for transport in self._opened:  # forgotten ones too
            if transport is not None:
                transport.abort()
        self._opened.clear()

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(autoping=not self.faults.deaf)
        await socket.prepare(request)
        sid = request.query.get("clientId") or "nobody"
        self._opened.append(request.transport)
        self._sockets[sid] = (socket, request.transport)
        remaining = {"exec_info": {"queue_remaining": self._engine.remaining}}
        try:
            await self._send(sid, "status", {"status": remaining, "sid": sid})
            async for message in socket:
                if message.type is web.WSMsgType.TEXT and json.loads(message.data)["type"] == "feature_flags":
                    await self._send(sid, "feature_flags", FEATURES)
        finally:
            # As the real one: whichever socket of this id closes, the newest one is forgotten.
            self._sockets.pop(sid, None)
            self._notice()
        return socket
