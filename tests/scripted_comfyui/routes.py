"""The scripted ComfyUI's HTTP routes, and the simulated proxy in front of it."""

from __future__ import annotations

import asyncio
import posixpath
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from tests.scripted_comfyui.engine import Engine, Item
from tests.scripted_comfyui.faults import Faults, Request
from tests.scripted_comfyui.machine import FEATURES, SYSTEM_STATS
from tests.scripted_comfyui.nodes import NodeClass
from tests.scripted_comfyui.validation import judge, no_prompt, wrong_id

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PAGE = "<!doctype html><html><body><h1>no way in</h1></body></html>"
# By their extensions, as the real one does. Others, and what a browser would run, are NO_TYPE.
TYPES = {
    "png": "image/png",
    "mp4": "video/mp4",
    "webp": "image/webp",
    "txt": "text/plain",
    "svg": "image/svg+xml",
    "js": "application/javascript",
}
NO_TYPE = "application/octet-stream"
FOLDERS = ("input", "output", "temp")


class Routes:
    def __init__(
        self,
        engine: Engine,
        *,
        classes: Mapping[str, NodeClass],
        faults: Faults,
        note: Callable[[Request], None],
        modern: bool,
    ) -> None:
        self._engine = engine
        self.classes = classes
        self.faults = faults
        self._note = note
        self._modern = modern

    def table(self, websocket: Handler) -> list[web.RouteDef]:
        """All of them, also under /api."""
        get, post = web.get, web.post
        plain: list[tuple[Any, str, Handler]] = [
            (get, "/ws", websocket),
            (post, "/prompt", self._submit),
            (get, "/prompt", self._remaining),
            (get, "/queue", self._queue),
            (post, "/queue", self._delete_queued),
            (get, "/history", self._whole_history),
            (get, "/history/{prompt_id}", self._history),
            (post, "/history", self._delete_history),
            (post, "/interrupt", self._interrupt),
            (post, "/free", self._ok),
            (get, "/view", self._view),
            (post, "/upload/image", self._upload),
            (get, "/object_info", self._object_info),
            (get, "/object_info/{name}", self._object_info),
            (get, "/system_stats", self._system_stats),
            (get, "/features", self._features),
        ]
        others = get("/{path:.*}", self._no_such_file)  # last: the real one serves its frontend's files
        if self._modern:
            plain.append((post, "/jobs/{prompt_id}/cancel", self._cancel))
            return [
                *(method("/api" + path, do) for method, path, do in plain),
                *(method(path, do) for method, path, do in plain[:-1]),
                others,
            ]
        return [*(method(prefix + path, do) for method, path, do in plain for prefix in ("", "/api")), others]

    @web.middleware
    async def note_and_spoil(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        path, faults = request.path, self.faults
        body = await _json(request) if request.content_type == "application/json" else None
        headers = {name: request.headers[name] for name in request.headers}
        peer = request.transport.get_extra_info("peername") if request.transport else ("", 0)
        at = time.monotonic()
        self._note(
            Request(
                method=request.method,
                path=path,
                body=body,
                headers=headers,
                peer=peer[:2],
                at=at,
                query=request.query_string,
            )
        )
        await asyncio.sleep(faults.delay.get(path, 0))
        by_proxy = faults.proxy_sockets if path == "/ws" else faults.page.get(path, faults.proxy)
        if by_proxy is not None:
            return web.Response(status=by_proxy, text=PAGE, content_type="text/html")
        if path in faults.hang or any(text in request.path_qs for text in faults.hang_on):
            await asyncio.Event().wait()
        if path in faults.status:
            return web.Response(status=faults.status[path], text="told to")
        if path in faults.body:
            return web.Response(body=faults.body[path], content_type="application/json")
        response = await handler(request)
        if path in faults.truncate and isinstance(response, web.Response):
            return await _truncated(request, response)
        if path in faults.shorten and isinstance(response, web.Response):
            response.text = (response.text or "")[: len(response.text or "") // 2]
        return response

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if self.faults.refuse is not None:
            return web.json_response(self.faults.refuse, status=400)
        number = body.get("number")
        if number is None:
            number = self._engine.next_number(front=bool(body.get("front")))
        prompt_id = str(body.get("prompt_id", uuid.uuid4()))
        if "prompt" not in body:
            return web.json_response({"error": no_prompt(), "node_errors": {}}, status=400)
        if self._modern and not _is_canonical(prompt_id):
            return web.json_response({"error": wrong_id(), "node_errors": {}}, status=400)
        verdict = judge(
            body["prompt"], self.classes, only=body.get("partial_execution_targets"), modern=self._modern
        )
        if verdict.error is not None:
            return web.json_response({"error": verdict.error, "node_errors": verdict.node_errors}, status=400)
        extra = dict(body.get("extra_data", {}))
        if "client_id" in body:
            extra["client_id"] = body["client_id"]
        item = Item(
            number=float(number),
            prompt_id=prompt_id,
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
        body = await request.json()
        if body.get("clear"):
            await self._engine.delete([item.prompt_id for item in self._engine.pending])
        await self._engine.delete(body.get("delete", []))
        return web.Response()

    async def _whole_history(self, request: web.Request) -> web.StreamResponse:
        entries = list(self._engine.history.items())
        most = request.query.get("max_items")
        if most is not None:
            entries = entries[-int(most) :] if int(most) else []
        return web.json_response(dict(entries))

    async def _history(self, request: web.Request) -> web.StreamResponse:
        prompt_id = request.match_info["prompt_id"]
        entry = self._engine.history.get(prompt_id)
        return web.json_response({} if entry is None else {prompt_id: entry})

    async def _delete_history(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body.get("clear"):
            self._engine.history.clear()
        for prompt_id in body.get("delete", []):
            self._engine.history.pop(prompt_id, None)
        return web.Response()

    async def _interrupt(self, request: web.Request) -> web.StreamResponse:
        body = await _json(request) or {}
        self._engine.interrupt(body.get("prompt_id") or None)
        return web.Response()

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        """Waiting or running, in one step; nothing where it is neither."""
        prompt_id = request.match_info["prompt_id"]
        cancelled = await self._engine.cancel(prompt_id)
        return web.json_response({"cancelled": cancelled})

    async def _ok(self, _request: web.Request) -> web.StreamResponse:
        return web.Response()

    async def _view(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        name = query.get("filename")
        if name in self.faults.broken_files and request.transport is not None:
            request.transport.close()  # as the real one does over a newline in a header
        if name is None:
            return web.Response(status=404)
        name, folder = _annotated(name, otherwise=query.get("type", "output"))
        if not name or name.startswith("/") or ".." in name or folder not in FOLDERS:
            return web.Response(status=400)
        subfolder = query.get("subfolder", "")
        if _leads_outside(subfolder):
            return web.Response(status=403)
        name = name.rpartition("/")[2]
        content = self._engine.files.get((folder, subfolder, name))
        if content is None:
            return web.Response(status=404)
        return await self._send_file(request, name, content)

    async def _send_file(self, request: web.Request, name: str, content: bytes) -> web.StreamResponse:
        part, status = request.http_range, 206 if "Range" in request.headers else 200
        content = content[part]
        kind = TYPES.get(name.rpartition(".")[2], NO_TYPE)
        response = web.StreamResponse(
            status=status, headers={"Content-Type": kind, "Content-Disposition": f'filename="{name}"'}
        )
        response.content_length = len(content)
        await response.prepare(request)
        await response.write(content[: self.faults.cut_files])
        if self.faults.cut_files is not None and request.transport is not None:
            request.transport.close()
        return response

    async def _no_such_file(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(status=404)

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        image, folder = form.get("image"), str(form.get("type", "input"))
        subfolder = str(form.get("subfolder", ""))
        if folder not in FOLDERS:
            raise UnboundLocalError(folder)  # a fault of the real one: 500
        if not isinstance(image, web.FileField) or _leads_outside(subfolder):
            return web.Response(status=400)
        content, name = image.file.read(), image.filename
        if form.get("overwrite") not in ("true", "1"):
            name = self._engine.free_name(content, name=name, subfolder=subfolder, folder=folder)
        self._engine.files[folder, subfolder, name] = content
        answer: dict[str, Any] = {"name": name, "subfolder": subfolder, "type": folder}
        if self._modern:
            answer["asset"] = {"id": str(uuid.uuid4()), "name": name, "size": len(content)}
        return web.json_response(answer)

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


async def _json(request: web.Request) -> Any:
    """None for what is no JSON."""
    try:
        return await request.json()
    except ValueError:
        return None


def _annotated(name: str, *, otherwise: str) -> tuple[str, str]:
    """`x.png [input]` names a folder too."""
    for folder in FOLDERS:
        if name.endswith(f"[{folder}]"):
            return name.removesuffix(f"[{folder}]").rstrip(), folder
    return name, otherwise


def _leads_outside(subfolder: str) -> bool:
    return posixpath.normpath(subfolder).startswith(("..", "/"))


def _is_canonical(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text) is not None


async def _truncated(request: web.Request, whole: web.Response) -> web.StreamResponse:
    """The connection ends before what its header promises."""
    content = whole.body if isinstance(whole.body, bytes) else b""
    response = web.StreamResponse(status=whole.status, headers={"Content-Type": "application/json"})
    response.content_length = max(len(content), 2)
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
