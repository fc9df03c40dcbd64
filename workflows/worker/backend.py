"""The worker's view of its ComfyUI: how to reach it, its capabilities, and its health."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from django.conf import settings

from comfyserve.db import connections
from comfyui import Client, OutputFile, Session, SystemStats, Unreachable, shared_folders
from comfyui.bridge import Bridge
from workflows.graph import node_classes, parsing
from workflows.models import Execution, ObjectInfo
from workflows.queue import matching

from .fatal_uploads import FatalUploads
from .placed_inputs import PlacedInputs
from .suspects import Suspects

logger = logging.getLogger(__name__)

FAULTS_UNTIL_PAUSE = 3  # consecutive system faults
FIRST_PAUSE, LONGEST_PAUSE = 15.0, 300.0  # seconds
MARK = parsing.MARK_INPUT  # the input that identifies our prompts


class Backend:
    """Shared by several threads; attributes are only replaced, never mutated in place."""

    def __init__(self, *, name: str, url: str, headers: dict[str, str]) -> None:
        self.name = name
        self.url = url
        self.client = Client(url, headers=headers)
        # One id per process: if two sockets share a client id, one of them gets no events. Opened by
        # `connect`.
        self.session = Session(f"comfyserve-{name}-{uuid4().hex[:12]}", url, headers=headers, connect=False)
        self.orphans = threading.Event()  # ComfyUI may have prompts of ours without a claim: cancel them
        self.stats: SystemStats | None = None
        self.object_info_digest: str | None = None
        self.boot_id = ""
        self._folders: Mapping[str, shared_folders.SharedFolder] = {}  # that this process may see too
        self.placed = PlacedInputs()
        self.suspects = Suspects()
        self.fatal_uploads = FatalUploads()
        self.stored_at = 0.0  # when outputs of a run were last stored (monotonic seconds)
        self.node_classes: dict[str, node_classes.NodeClass] = {}
        self._output_classes: set[str] = set()
        self._known_generation = 0
        self._faults = 0
        self._failed_with: set[str] = set()  # executions that record_fault since the last success
        self._pause = FIRST_PAUSE
        self._paused_until = 0.0
        self.present: set[str] = set()  # prompts posted by runners of this process
        self.uncollected: set[str] = set()  # those that ended, whose outputs only ComfyUI has
        self._hung_on: str | None = None  # a prompt that ComfyUI fails to stop

    def connect(self) -> None:
        """Called once this process is the one that serves the backend."""
        self.session.start()

    # -- health ----------------------------------------------------------------------------------------
    @property
    def reachable(self) -> bool:
        """It is connected, and its capabilities were read on this connection: it may have restarted since."""
        session = self.session
        return session.connected and self.stats is not None and session.generation == self._known_generation

    @property
    def faulty(self) -> bool:
        """It is paused after several consecutive failures that the executions did not cause."""
        return time.monotonic() < self._paused_until

    @property
    def ready(self) -> bool:
        return self.reachable and not self.faulty and not self.hung

    @property
    def hung(self) -> bool:
        """It still runs a prompt that it should have stopped: anything posted would wait for that one."""
        return self._hung_on is not None

    def mark_hung(self, prompt_id: str) -> None:
        self._hung_on = prompt_id
        logger.error(
            "backend %s hangs: it did not stop execution %s, and gets no work until it is restarted",
            self.name, prompt_id, extra={"action": "comfyui_hangs"},
        )  # fmt: skip

    def check_hang(self) -> bool:
        """Check whether it is still hung; True if it has just recovered."""
        prompt_id = self._hung_on
        if prompt_id is None or not self.session.connected or self.is_running(prompt_id):
            return False
        self._hung_on = None
        logger.warning("backend %s has stopped execution %s", self.name, prompt_id)
        return True

    @property
    def has_bridge(self) -> bool:
        """Our bridge node is installed: each prompt has its own folders, and leftovers can be deleted."""
        return bool(self.boot_id)

    def record_success(self) -> None:
        self._faults, self._pause, self._failed_with = 0, FIRST_PAUSE, set()

    def fails_only_with(self, prompt_id: str) -> bool:
        """Whether only this execution has record_fault since the last success: then it is to blame."""
        return self._failed_with <= {prompt_id}

    def record_fault(self, prompt_id: str, *, pause: bool = False) -> None:
        """Record a system fault. Several in a row pause the backend, longer each time; with `pause` a
        single one does, since whatever runs next would fail too.
        """
        self._faults = FAULTS_UNTIL_PAUSE if pause else self._faults + 1
        self._failed_with = self._failed_with | {prompt_id}
        if self._faults >= FAULTS_UNTIL_PAUSE:
            logger.error(
                "backend %s is paused for %.0f s after %d consecutive faults",
                self.name,
                self._pause,
                self._faults,
            )
            self._paused_until = time.monotonic() + self._pause
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
            self._faults = FAULTS_UNTIL_PAUSE - 1  # one more fault after the pause, and it is paused again

    # -- capabilities ----------------------------------------------------------------------------------
    def refresh(self) -> bool:
        """Read its capabilities if the connection is new; return whether it was. Raises Unreachable."""
        generation = self.session.generation
        if not self.session.connected or generation == self._known_generation:
            return False
        stats = self.client.system_stats()
        bridge = Bridge(self.client).info()
        self._store_object_info(self.client.object_info())
        self.boot_id = bridge.boot_id if bridge else ""
        self._folders = bridge.folders if bridge else {}
        self.stats = stats  # last: makes it reachable
        self._known_generation = generation
        return True

    def forget_capabilities(self) -> None:
        """Make the next refresh read and report everything again, as after a reconnect."""
        self.object_info_digest = None
        self._known_generation = -1

    def refresh_memory(self) -> None:
        """Update the memory figures for the heartbeat; ignored if it does not respond."""
        if self.reachable:
            try:
                self.stats = self.client.system_stats()
            except Unreachable as exc:
                logger.warning("backend %s does not respond: %s", self.name, exc)

    def _store_object_info(self, object_info: dict[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(object_info, sort_keys=True).encode()).hexdigest()
        if digest != self.object_info_digest:
            with connections.step():
                ObjectInfo.objects.get_or_create(
                    digest=digest, defaults={"body": connections.sanitize_json(object_info)}
                )
                matching.has_more(self.name)
            self._output_classes = {name for name, info in object_info.items() if info.get("output_node")}
            self.node_classes = {name: node_classes.read(name, info) for name, info in object_info.items()}
            self.object_info_digest = digest

    def output_nodes(self, prompt: parsing.Prompt) -> set[str]:
        """The nodes of the prompt that save or show something."""
        return {node_id for node_id, node in prompt.items() if node["class_type"] in self._output_classes}

    # -- outputs ---------------------------------------------------------------------------------------
    @contextmanager
    def view(self, file: OutputFile) -> Iterator[Iterable[bytes]]:
        """The bytes of an output: from ComfyUI's folder if this process sees it, else over HTTP. Raises
        NotFound and Unreachable, the latter also while they are read.
        """
        with shared_folders.view(file, self._folders) as content:
            if content is not None:
                yield content
                return
        with self.client.view(file) as stream:
            yield stream

    # -- leftovers -------------------------------------------------------------------------------------
    def cancel_orphan_prompts(self, *, but: Collection[str] = ()) -> None:
        """Cancel prompts with our mark that have no claim here: nothing is waiting for them."""
        state = self.client.queue()
        ours = {item.prompt_id for item in [*state.pending, *state.running] if _is_marked(item.prompt)}
        ours -= set(but)
        if not ours:
            return
        with connections.step():
            claimed = {
                str(id_)
                for id_ in Execution.objects.filter(worker=self.name, claim_token__isnull=False).values_list(
                    "id", flat=True
                )
            }
        for prompt_id in ours - claimed:
            logger.warning("backend %s: cancelling orphan prompt %s", self.name, prompt_id)
            self.client.cancel(prompt_id)

    def is_running(self, prompt_id: str) -> bool:
        return any(item.prompt_id == prompt_id for item in self.client.queue().running)

    def close(self) -> None:
        self.session.close()
        self.client.close()


def _is_marked(prompt: dict[str, Any]) -> bool:
    return any(MARK in node.get("inputs", {}) for node in prompt.values() if isinstance(node, dict))


def own() -> Backend:
    """The backend that this process serves, from the settings."""
    return Backend(name=settings.BACKEND_NAME, url=settings.COMFYUI_URL, headers=settings.COMFYUI_HEADERS)
