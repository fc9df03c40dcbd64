"""The bridge's routes. They run in ComfyUI's event loop: slow work runs in a thread."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from typing import Any

from aiohttp import web
from server import PromptServer

from . import between, folders, inventory, leftovers, memory

VERSION = 3  # version of these routes; incremented with each breaking change
BOOT = uuid.uuid4().hex  # id of this process: changes whenever ComfyUI restarts
STARTED_AT = time.time()
LONGEST_WAIT = 60.0  # seconds
FOLDERS_SECONDS = 3.0  # to look at ComfyUI's folders

routes = PromptServer.instance.routes


@routes.get("/comfyserve/bridge")
async def bridge(_: web.Request) -> web.Response:
    process = {"pid": os.getpid(), "started_at": STARTED_AT}
    return web.json_response({"version": VERSION, "boot": BOOT, **process, **await _folders()})


async def _folders() -> dict[str, Any]:
    """{} if they hang, as network folders may: workers then ask for each file."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(folders.described), FOLDERS_SECONDS)
    except asyncio.TimeoutError:  # noqa: UP041  (another class before Python 3.11)
        return {}


@routes.get("/comfyserve/memory")
async def in_memory(_: web.Request) -> web.Response:
    return web.json_response({"boot": BOOT, **memory.snapshot()})


@routes.get("/comfyserve/files")
async def model_files(_: web.Request) -> web.Response:
    return web.json_response({"boot": BOOT, "folders": await asyncio.to_thread(inventory.files)})


@routes.get("/comfyserve/header")
async def header(request: web.Request) -> web.Response:
    folder, name = request.query.get("folder", ""), request.query.get("name", "")
    found = await asyncio.to_thread(inventory.header, folder, name)
    if found is None:
        return web.json_response({"error": "no header there"}, status=404)
    return web.json_response(found)


@routes.post("/comfyserve/unload")
async def unload(request: web.Request) -> web.Response:
    """200 when done; 202 if a prompt still runs after `wait` seconds: the job runs afterwards."""
    try:
        body = await request.json()
        folder, name, drop = str(body["folder"]), str(body["name"]), bool(body.get("drop", False))
        wait = min(float(body.get("wait", 2.0)), LONGEST_WAIT)
    except (ValueError, KeyError, TypeError):
        return web.json_response({"error": "folder and name are needed"}, status=400)
    job = between.do(("unload", folder, name, drop), lambda: memory.unload(folder, name, drop=drop))
    try:
        gone = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(job)), wait)
    except asyncio.TimeoutError:  # noqa: UP041  (another class before Python 3.11)
        return web.json_response({"status": "scheduled"}, status=202)
    return web.json_response({"status": "unloaded", "classes": gone})


@routes.get("/comfyserve/leftovers")
async def leftovers_found(_: web.Request) -> web.Response:
    return web.json_response(await asyncio.to_thread(leftovers.found))


@routes.post("/comfyserve/use")
async def use(request: web.Request) -> web.Response:
    try:
        body: Any = await request.json()
        size = await asyncio.to_thread(leftovers.use, str(body["input"]), older=float(body["older"]))
    except (ValueError, KeyError, TypeError) as error:
        return web.json_response({"error": str(error)}, status=400)
    return web.json_response({"size": size})


@routes.post("/comfyserve/delete")
async def delete(request: web.Request) -> web.Response:
    try:
        body: Any = await request.json()
        since, until = body.get("since"), body.get("until")
        files, size = await asyncio.to_thread(
            leftovers.delete,
            marks=[str(mark) for mark in body.get("marks", ())],
            inputs=[str(name) for name in body.get("inputs", ())],
            files=[dict(file) for file in body.get("files", ())],
            since=None if since is None else float(since),
            until=None if until is None else float(until),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return web.json_response({"error": str(error)}, status=400)
    return web.json_response({"files": files, "bytes": size})
