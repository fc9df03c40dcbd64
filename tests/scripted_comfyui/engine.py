"""The scripted ComfyUI's queue: runs prompts one after another and sends the events of the real one."""

from __future__ import annotations

import asyncio
import json
import struct
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.scripted_comfyui.faults import Faults
from tests.scripted_comfyui.nodes import NodeClass
from tests.scripted_comfyui.validation import upstream

Send = Callable[[str | None, str, Any], Awaitable[None]]  # client id (None: everybody), type, data


class Interrupted(Exception):
    """The prompt was interrupted while a node ran."""


@dataclass
class Item:
    number: float
    prompt_id: str
    graph: Mapping[str, Any]
    extra: dict[str, Any]
    outputs: list[str]
    interrupted: asyncio.Event = field(default_factory=asyncio.Event)
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, dict[str, Any]] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)

    @property
    def client_id(self) -> str | None:
        return self.extra.get("client_id")

    def public(self) -> list[Any]:
        return [self.number, self.prompt_id, self.graph, self.extra, self.outputs]


class NodeRun:
    """What a node's script is given."""

    def __init__(self, engine: Engine, item: Item, node_id: str, *, within: NodeRun | None = None) -> None:
        self.prompt_id = item.prompt_id
        self.node_id = node_id
        self.within = within  # the node that expanded to this one
        self.shown_as: str = within.shown_as if within else node_id
        self._engine = engine
        self._item = item

    async def sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._item.interrupted.wait(), seconds)
        except TimeoutError:
            return
        raise Interrupted

    async def progress(self, value: float, maximum: float) -> None:
        await self._engine.node_progress(self._item, self, value=value, maximum=maximum)
        data = {"value": value, "max": maximum, "prompt_id": self.prompt_id, "node": self.node_id}
        await self._engine.send(self._item.client_id, "progress", data)

    async def expand(self, name: str) -> NodeRun:
        """A node that this one expands to begins, told under an id of its own, and shown as ours."""
        inner = NodeRun(self._engine, self._item, f"{self.node_id}.0.0.{name}", within=self)
        await inner.begin()
        return inner

    async def begin(self) -> None:
        await self._engine.node_progress(self._item, self, value=0, maximum=1)
        begun = {"node": self.node_id, "display_node": self.shown_as, "prompt_id": self.prompt_id}
        await self._engine.send(self._item.client_id, "executing", begun)
        if self._item.interrupted.is_set():
            raise Interrupted

    async def end(self) -> None:
        maximum = self._item.progress[self.node_id]["max"]
        await self._engine.node_progress(self._item, self, value=maximum, maximum=maximum, state="finished")

    async def preview(self, image: bytes) -> None:
        ids = {"node_id": self.node_id, "prompt_id": self.prompt_id, "display_node_id": self.shown_as}
        head = json.dumps(ids | {"image_type": "image/png"}).encode()
        frame = struct.pack(">II", 4, len(head)) + head + image
        await self._engine.send(self._item.client_id, "", frame)

    def save(self, content: bytes, *, prefix: str, extension: str, folder: str = "output") -> dict[str, str]:
        subfolder, _, stem = prefix.rpartition("/")
        return self._engine.keep(content, stem=stem, extension=extension, subfolder=subfolder, folder=folder)


class Engine:
    """Lives in one event loop; nothing here is called from another thread."""

    def __init__(self, *, classes: Mapping[str, NodeClass], send: Send, faults: Faults) -> None:
        self.send = send
        self._faults = faults
        self.pending: list[Item] = []
        self.running: Item | None = None
        self.history: dict[str, Any] = {}
        self.files: dict[tuple[str, str, str], bytes] = {}  # folder, subfolder, name
        self.open = asyncio.Event()  # closed, nothing leaves the queue
        self.open.set()
        self._classes = classes
        self._cache: dict[str, Any] = {}
        self._number = 0
        self._arrived = asyncio.Event()

    def next_number(self, *, front: bool) -> float:
        number, self._number = float(self._number), self._number + 1
        return -number if front else number

    @property
    def remaining(self) -> int:
        return len(self.pending) + (self.running is not None)

    async def put(self, item: Item) -> None:
        item.extra["create_time"] = now()
        self.pending.append(item)
        self.pending.sort(key=lambda each: each.number)
        self._arrived.set()
        await self.tell_status()

    async def delete(self, prompt_ids: list[str]) -> None:
        self.pending = [item for item in self.pending if item.prompt_id not in prompt_ids]
        await self.tell_status()

    def interrupt(self, prompt_id: str | None) -> None:
        """None: whatever runs."""
        if self.running is not None and prompt_id in (None, self.running.prompt_id):
            self.running.interrupted.set()

    async def cancel(self, prompt_id: str) -> bool:
        """Whether it ran or waited."""
        if self.running is not None and self.running.prompt_id == prompt_id:
            self.running.interrupted.set()
            return True
        waited = any(item.prompt_id == prompt_id for item in self.pending)
        await self.delete([prompt_id])
        return waited

    def free_name(self, content: bytes, *, name: str, subfolder: str, folder: str) -> str:
        """For an upload that overwrites nothing: the same name where the bytes are the same."""
        stem, dot, extension = name.rpartition(".")
        number, free = 1, name
        while self.files.get((folder, subfolder, free), content) != content:
            free = f"{stem} ({number}){dot}{extension}"
            number += 1
        return free

    def keep(
        self, content: bytes, *, stem: str, extension: str, subfolder: str, folder: str
    ) -> dict[str, str]:
        number = 1
        while (folder, subfolder, name := f"{stem}_{number:05}_.{extension}") in self.files:
            number += 1
        self.files[folder, subfolder, name] = content
        return {"filename": name, "subfolder": subfolder, "type": folder}

    async def tell_status(self) -> None:
        await self.send(None, "status", {"status": {"exec_info": {"queue_remaining": self.remaining}}})

    async def run_for_ever(self) -> None:
        while True:
            await self._arrived.wait()
            await self.open.wait()
            if not self.pending:
                self._arrived.clear()
                continue
            self.running = item = self.pending.pop(0)
            await self.tell_status()
            succeeded = await self._run(item)
            await asyncio.sleep(self._faults.late_history)
            self.running = None
            self.history[item.prompt_id] = self._entry(item, succeeded=succeeded)
            await self.tell_status()
            await self.send(item.client_id, "executing", {"node": None, "prompt_id": item.prompt_id})

    async def _run(self, item: Item) -> bool:
        await self._say(item, "execution_start", {})
        cached = [node_id for node_id in self._order(item) if self._key(item, node_id) in self._cache]
        await self._say(item, "execution_cached", {"nodes": cached})
        for node_id in self._order(item):
            try:
                if node_id in cached:
                    await self._show(item, node_id, self._cache[self._key(item, node_id)])
                else:
                    await self._run_node(item, node_id)
            except Interrupted:
                where = {"node_id": node_id, "node_type": item.graph[node_id]["class_type"]}
                await self._say(item, "execution_interrupted", where | {"executed": item.executed})
                return False
            except Exception as exc:  # noqa: BLE001  what a node raises, the prompt reports
                await self._say(item, "execution_error", self._failure(item, node_id, exc))
                return False
        await self._say(item, "execution_success", {})
        return True

    async def _run_node(self, item: Item, node_id: str) -> None:
        node = item.graph[node_id]
        run = NodeRun(self, item, node_id)
        await run.begin()
        output = await self._classes[node["class_type"]].run(run, node.get("inputs", {}))
        self._cache[self._key(item, node_id)] = output
        item.executed.append(node_id)
        await self._show(item, node_id, output)
        await run.end()

    async def _show(self, item: Item, node_id: str, output: Any) -> None:
        if output is not None:
            item.results[node_id] = output
            shown = {"node": node_id, "display_node": node_id, "output": output, "prompt_id": item.prompt_id}
            await self.send(item.client_id, "executed", shown)

    async def node_progress(
        self, item: Item, run: NodeRun, *, value: float, maximum: float, state: str = "running"
    ) -> None:
        item.progress[run.node_id] = {
            "value": value,
            "max": maximum,
            "state": state,
            "node_id": run.node_id,
            "prompt_id": item.prompt_id,
            "display_node_id": run.shown_as,
            "parent_node_id": run.within.node_id if run.within else None,
            "real_node_id": run.shown_as,
        }
        data = {"prompt_id": item.prompt_id, "nodes": dict(item.progress)}
        await self.send(item.client_id, "progress_state", data)

    async def _say(self, item: Item, kind: str, data: dict[str, Any]) -> None:
        """A message that history keeps too."""
        data = data | {"prompt_id": item.prompt_id, "timestamp": now()}
        item.messages.append((kind, data))
        await self.send(item.client_id, kind, data)

    def _order(self, item: Item) -> list[str]:
        order: list[str] = []

        def visit(node_id: str) -> None:
            if node_id not in order:
                for before in upstream(item.graph[node_id], item.graph):
                    visit(before)
                order.append(node_id)

        for output in item.outputs:
            visit(output)
        return order

    def _key(self, item: Item, node_id: str) -> str:
        """As the real one's: by class and inputs, not by node id."""
        node = item.graph[node_id]
        inputs = {
            name: self._key(item, value[0]) if isinstance(value, list) and value[0] in item.graph else value
            for name, value in node.get("inputs", {}).items()
        }
        return json.dumps([node["class_type"], inputs], sort_keys=True)

    def _failure(self, item: Item, node_id: str, exc: Exception) -> dict[str, Any]:
        return {
            "node_id": node_id,
            "node_type": item.graph[node_id]["class_type"],
            "executed": item.executed,
            "exception_message": str(exc),
            "exception_type": type(exc).__name__,
            "traceback": traceback.format_tb(exc.__traceback__),
            "current_inputs": {},
            "current_outputs": [],
        }

    def _entry(self, item: Item, *, succeeded: bool) -> dict[str, Any]:
        status = {
            "status_str": "success" if succeeded else "error",
            "completed": succeeded,
            "messages": item.messages,
        }
        meta = {
            node_id: {
                "node_id": node_id,
                "display_node": node_id,
                "parent_node": None,
                "real_node_id": node_id,
            }
            for node_id in item.results
        }
        return {"prompt": item.public(), "outputs": item.results, "status": status, "meta": meta}


def now() -> int:
    """Milliseconds since the epoch."""
    return int(time.time() * 1000)
