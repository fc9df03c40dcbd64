"""A real HTTP and websocket server that talks as ComfyUI does, and fails as it is told to."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web

from tests.scripted_comfyui import nodes
from tests.scripted_comfyui.engine import Engine, Item
from tests.scripted_comfyui.machine import FEATURES, SYSTEM_STATS
from tests.scripted_comfyui.validation import judge

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
BRIEF = 10.0  # seconds that a call into the server's thread may take


@dataclass(frozen=True)
class Request:
    """Something that was asked of it. `body` is the JSON that came, None where none did."""

    method: str
    path: str
    body: Any
    headers: Mapping[str, str]
    peer: tuple[str, int]  # the connection's other end
    at: float  # time.monotonic()


@dataclass
class Faults:
    """Set these at any time, from any thread. Paths are without query: "/prompt"."""

    refuse: dict[str, Any] | None = None  # the body of a 400 for every prompt
    error_after_accepting: int = 0  # so many prompts are queued, and answered with 500
    no_answer_after_accepting: int = 0  # so many prompts are queued, and the connection is cut
    status: dict[str, int] = field(default_factory=dict)  # path -> what it answers
    body: dict[str, bytes] = field(default_factory=dict)  # path -> what it answers, with 200
    proxy: int | None = None  # what stands before it answers everything but /ws itself: this, and a page
    delay: dict[str, float] = field(default_factory=dict)  # path -> seconds before it is looked at
    hang: set[str] = field(default_factory=set)  # paths that never answer
    hang_on: set[str] = field(
        default_factory=set
    )  # texts in addresses, with their queries, that never answer
    silent: bool = False  # sockets stay open, and nothing is sent on them
    deaf: bool = False  # sockets opened from now on answer no ping, as one whose peer has gone
    cut_files: int | None = None  # the connection ends after so many bytes of a file
    broken_files: set[str] = field(default_factory=set)  # names for which `/view` drops the connection


class ScriptedComfyUI:
    """Use it as a context manager, or call `start` and `stop`; the port stays the same between.

    with ScriptedComfyUI() as comfyui:
        comfyui.classes["Mine"] = NodeClass(run=my_script)
        comfyui.faults.hang.add("/prompt")
        ... comfyui.url ...
        comfyui.wait_for(lambda: comfyui.interrupts, timeout=5)
    """

    def __init__(self, *, port: int = 0) -> None:
        self.port = port  # 0: a free one, known after start
        self.classes = nodes.stock()
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

    def wait_for(self, condition: Callable[[], T], *, timeout: float = 5.0) -> T:
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
        self._engine = Engine(classes=self.classes, send=self._send)
        app = web.Application(middlewares=[self._note_and_spoil], client_max_size=100 * 1024 * 1024)
        app.add_routes(self._routes())
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05, handle_signals=False)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = runner.addresses[0][1]
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

    # -- HTTP -----------------------------------------------------------------------------------

    def _routes(self) -> list[web.RouteDef]:
        return [
            web.get("/ws", self._websocket),
            web.post("/prompt", self._submit),
            web.get("/prompt", self._remaining),
            web.get("/queue", self._queue),
            web.post("/queue", self._delete_queued),
            web.get("/history/{prompt_id}", self._history),
            web.post("/history", self._delete_history),
            web.post("/interrupt", self._interrupt),
            web.post("/free", self._ok),
            web.get("/view", self._view),
            web.post("/upload/image", self._upload),
            web.get("/object_info", self._object_info),
            web.get("/object_info/{name}", self._object_info),
            web.get("/system_stats", self._system_stats),
            web.get("/features", self._features),
        ]

    @web.middleware
    async def _note_and_spoil(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        path, faults = request.path, self.faults
        body = await request.json() if request.content_type == "application/json" else None
        headers = {name: request.headers[name] for name in request.headers}
        peer = request.transport.get_extra_info("peername") if request.transport else ("", 0)
        self.requests.append(
            Request(
                method=request.method,
                path=path,
                body=body,
                headers=headers,
                peer=peer[:2],
                at=time.monotonic(),
            )
        )
        self._notice()
        await asyncio.sleep(faults.delay.get(path, 0))
        if faults.proxy is not None and path != "/ws":
            return web.Response(status=faults.proxy, text="<html>no way in</html>", content_type="text/html")
        if path in faults.hang or any(text in request.path_qs for text in faults.hang_on):
            await asyncio.Event().wait()
        if path in faults.status:
            return web.Response(status=faults.status[path], text="told to")
        if path in faults.body:
            return web.Response(body=faults.body[path], content_type="application/json")
        return await handler(request)

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if self.faults.refuse is not None:
            return web.json_response(self.faults.refuse, status=400)
        verdict = judge(body["prompt"], self.classes)
        number = self._engine.next_number(front=bool(body.get("front")))
        if verdict.error is not None:
            return web.json_response({"error": verdict.error, "node_errors": verdict.node_errors}, status=400)
        extra = {**body.get("extra_data", {}), "client_id": body["client_id"]}
        item = Item(
            number=number,
            prompt_id=str(body["prompt_id"]),
            graph=body["prompt"],
            extra=extra,
            outputs=verdict.outputs,
        )
        await self._engine.put(item)
        return self._answer_to_accepted(request, item, verdict.node_errors)

    def _answer_to_accepted(
        self, request: web.Request, item: Item, node_errors: Mapping[str, Any]
    ) -> web.StreamResponse:
        if self.faults.error_after_accepting:
            self.faults.error_after_accepting -= 1
            return web.Response(status=500, text="500 Internal Server Error\n\nServer got itself in trouble")
        if self.faults.no_answer_after_accepting:
            self.faults.no_answer_after_accepting -= 1
            if request.transport is not None:
                request.transport.abort()
        return web.json_response(
            {"prompt_id": item.prompt_id, "number": item.number, "node_errors": node_errors}
        )

    async def _remaining(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response({"exec_info": {"queue_remaining": self._engine.remaining}})

    async def _queue(self, _request: web.Request) -> web.StreamResponse:
        running = [self._engine.running.public()] if self._engine.running else []
        pending = [item.public() for item in self._engine.pending]
        return web.json_response({"queue_running": running, "queue_pending": pending})

    async def _delete_queued(self, request: web.Request) -> web.StreamResponse:
        await self._engine.delete((await request.json()).get("delete", []))
        return web.Response()

    async def _history(self, request: web.Request) -> web.StreamResponse:
        prompt_id = request.match_info["prompt_id"]
        entry = self._engine.history.get(prompt_id)
        return web.json_response({} if entry is None else {prompt_id: entry})

    async def _delete_history(self, request: web.Request) -> web.StreamResponse:
        for prompt_id in (await request.json()).get("delete", []):
            self._engine.history.pop(prompt_id, None)
        return web.Response()

    async def _interrupt(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.content_type == "application/json" else {}
        self._engine.interrupt(body.get("prompt_id") or None)
        return web.Response()

    async def _ok(self, _request: web.Request) -> web.StreamResponse:
        return web.Response()

    async def _view(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        if query["filename"] in self.faults.broken_files and request.transport is not None:
            request.transport.close()  # as the real one does over a newline in a header
        content = self._engine.files.get(
            (query.get("type", "output"), query.get("subfolder", ""), query["filename"])
        )
        if content is None:
            return web.Response(status=404)
        response = web.StreamResponse(headers={"Content-Type": "image/png"})
        response.content_length = len(content)
        await response.prepare(request)
        await response.write(content[: self.faults.cut_files])
        if self.faults.cut_files is not None and request.transport is not None:
            request.transport.close()
        return response

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        image, folder, subfolder = (
            form["image"],
            str(form.get("type", "input")),
            str(form.get("subfolder", "")),
        )
        if not isinstance(image, web.FileField):
            return web.Response(status=400)
        self._engine.files[folder, subfolder, image.filename] = image.file.read()
        return web.json_response({"name": image.filename, "subfolder": subfolder, "type": folder})

    async def _object_info(self, request: web.Request) -> web.StreamResponse:
        wanted = request.match_info.get("name")
        described = {
            name: {
                "input": {"required": dict(each.required)},
                "input_order": {"required": list(each.required)},
                "output": list(each.returns),
                "output_is_list": [False for _ in each.returns],
                "output_name": list(each.returns),
                "name": name,
                "display_name": name,
                "description": "",
                "python_module": "nodes",
                "category": "scripted",
                "output_node": each.is_output,
            }
            for name, each in self.classes.items()
            if wanted in (None, name)
        }
        return web.json_response(described)

    async def _system_stats(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(SYSTEM_STATS)

    async def _features(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(FEATURES)
