"""A worker's operations on its ComfyUI's memory: load, unload, clean up."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import Q
from django.utils import timezone

from comfyserve.db import connections
from comfyui import Client, History, Refused
from comfyui.bridge import Bridge

from . import kinds, reporting
from .models import Model, ModelFile

logger = logging.getLogger(__name__)

WARM = "ComfyServeWarm"  # the node of our bridge
LONGEST_SECONDS = 2 * 3600.0  # for one load or unload, including runs before it
QUICK_LOOK, SLOW_LOOK, QUICK_LOOKS = 0.05, 0.5, 60  # seconds between polls, and how many are quick
FREED_ALL = (
    "This ComfyUI does not have ComfyServe's bridge, so all its models were unloaded; what is in its memory "
    "is not known"
)
LEFT_ALONE = (
    "This ComfyUI does not have ComfyServe's bridge, and a model was used lately, so nothing was unloaded"
)
PARTLY = (
    "This ComfyUI does not have ComfyServe's bridge: the file was read, but parts of the model move to the "
    "GPU only when a workflow uses them"
)


@dataclass(frozen=True)
class Loader:
    """The stock node that loads a type, and which of its outputs go to which input of the warming node."""

    node: str
    input: str
    outputs: Mapping[str, int]
    more: Mapping[str, Any]


LOADERS = {
    "checkpoint": Loader("CheckpointLoaderSimple", "ckpt_name", {"model": 0, "clip": 1, "vae": 2}, {}),
    "vae": Loader("VAELoader", "vae_name", {"vae": 0}, {}),
    "controlnet": Loader("ControlNetLoader", "control_net_name", {"control_net": 0}, {}),
    "diffusion_models": Loader("UNETLoader", "unet_name", {"model": 0}, {"weight_dtype": "default"}),
    "text_encoders": Loader("CLIPLoader", "clip_name", {"clip": 0}, {"type": "stable_diffusion"}),
    "clip_vision": Loader("CLIPVisionLoader", "clip_name", {"clip_vision": 0}, {}),
}


class Failed(Exception):
    """The operation failed. `code`: "failed", "not_found" or "unavailable" (the system's fault)."""

    def __init__(self, message: str, code: str = "failed") -> None:
        super().__init__(message)
        self.code = code


class Stopped(Exception):
    """The worker is shutting down; the command stays open for the next one."""


# -- load ----------------------------------------------------------------------------------------------
def load(
    host: str, client: Client, *, type_: str, name: str, prompt_id: str, stop: threading.Event
) -> dict[str, Any]:
    """Return when the model is in memory. It waits for the running prompt, ahead of everything queued."""
    has_bridge = Bridge(client).info() is not None
    _submit(client, _prompt(LOADERS[type_], name, warm=has_bridge), prompt_id, host=host)
    history = _ended(client, prompt_id, stop)
    client.delete_history(prompt_id)
    if history.outcome != "success":
        raise _failure(history, type_, name)
    with connections.step():
        reporting.report_memory(host, client)
        file = ModelFile.objects.filter(host_id=host, model__type=type_, model__name=name).first()
    if not has_bridge:
        return {"note": PARTLY}
    return {"loaded_bytes": file.loaded_bytes if file else 0}


def _prompt(loader: Loader, name: str, *, warm: bool) -> dict[str, Any]:
    node = {"class_type": loader.node, "inputs": {loader.input: name, **loader.more}}
    if warm:
        inputs = {name_: ["1", slot] for name_, slot in loader.outputs.items()}
        return {"1": node, "2": {"class_type": WARM, "inputs": inputs}}
    return {"1": node, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}


def _submit(client: Client, prompt: dict[str, Any], prompt_id: str, *, host: str) -> None:
    """Queue it ahead of all waiting prompts; unless a previous worker already has."""
    if client.whereabouts(prompt_id) != "unknown":
        return
    try:
        client.submit(prompt=prompt, prompt_id=prompt_id, client_id=f"comfyserve-models-{host}", front=True)
    except Refused as refused:
        lacks = any(
            error.type == "value_not_in_list"
            for errors in refused.node_errors.values()
            for error in errors.errors
        )
        message = "ComfyUI does not see this file" if lacks else f"ComfyUI rejected it: {refused.message}"
        raise Failed(_plain(message), "not_found" if lacks else "failed") from refused


def _ended(client: Client, prompt_id: str, stop: threading.Event) -> History:
    looks = 0
    until = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < until:
        history = client.history(prompt_id)
        if history is not None:
            return history
        looks += 1
        if looks > QUICK_LOOKS and client.whereabouts(prompt_id) == "unknown":
            raise Failed("ComfyUI lost the request; it may have been restarted", "unavailable")
        if stop.wait(QUICK_LOOK if looks <= QUICK_LOOKS else SLOW_LOOK):
            raise Stopped
    raise Failed("ComfyUI did not load it within two hours", "unavailable")


def _failure(history: History, type_: str, name: str) -> Failed:
    if history.error is None:
        return Failed("Loading was interrupted in ComfyUI", "unavailable")
    if "OutOfMemory" in history.error.exception_type or "Allocation on device" in history.error.message:
        return Failed(f"There is not enough memory for the {type_} {name}", "unavailable")
    logger.warning("loading %s failed:\n%s", name, "".join(history.error.traceback))
    return Failed(f"ComfyUI could not load the {type_} {name}: {_plain(history.error.message)}")


PATHS = re.compile(r"(?<![\w.])(?:/[\w.@+-]+){2,}/?|[A-Za-z]:\\[^\s'\"]+")


def _plain(text: str) -> str:
    """One line without server paths."""
    return PATHS.sub("…", " ".join(text.split()))[:500]


# -- unload --------------------------------------------------------------------------------------------
def unload(
    host: str, client: Client, *, type_: str, name: str, drop: bool, stop: threading.Event
) -> dict[str, Any]:
    """Return when the model has left the device, with `drop` RAM too. Without our bridge, all models are
    unloaded."""
    bridge = Bridge(client)
    if bridge.info() is None:
        client.free(unload_models=True, free_memory=drop)
        return {"note": FREED_ALL}
    _unload(bridge, kinds.folder_of(type_), name, drop=drop, stop=stop)
    with connections.step():
        reporting.report_memory(host, client)
    return {}


def _unload(bridge: Bridge, folder: str, name: str, *, drop: bool, stop: threading.Event) -> None:
    until = time.monotonic() + LONGEST_SECONDS
    while not bridge.unload(folder=folder, name=name, drop=drop):
        if stop.is_set():
            raise Stopped
        if time.monotonic() >= until:
            raise Failed("ComfyUI did not unload it within two hours", "unavailable")


def cleanup(host: str, client: Client, *, max_age_hours: int, stop: threading.Event) -> dict[str, Any]:
    """Unload models that were neither used nor loaded within the time."""
    before = timezone.now() - timedelta(hours=max_age_hours)
    bridge = Bridge(client)
    if bridge.info() is None:
        return _cleanup_without(client, before)
    with connections.step():
        reporting.report_memory(host, client)
        rows = list(
            ModelFile.objects.filter(Q(loaded_bytes__gt=0) | Q(ram_bytes__gt=0), host_id=host)
            .filter(Q(model__last_used__lt=before) | Q(model__last_used=None), loaded_at__lt=before)
            .values_list("folder", "model__name")
        )
    for folder, name in rows:
        _unload(bridge, folder, name, drop=True, stop=stop)
    with connections.step():
        reporting.report_memory(host, client)
    return {"unloaded": [name for _, name in rows]}


def _cleanup_without(client: Client, before: Any) -> dict[str, Any]:
    with connections.step():
        in_use = Model.objects.filter(last_used__gte=before).exists()
    if not in_use:
        client.free(unload_models=True, free_memory=True)
        return {"unloaded": [], "note": FREED_ALL}
    return {"unloaded": [], "note": LEFT_ALONE}
