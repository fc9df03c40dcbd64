"""What this ComfyUI holds in memory, and unloading a model."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import comfy.model_management as mm
import execution
import psutil

from . import origins

_executors: weakref.WeakSet[Any] = weakref.WeakSet()  # they hold the cache of node results
_executor_init = execution.PromptExecutor.__init__


def _watched_init(self: Any, *args: Any, **kwargs: Any) -> None:
    _executor_init(self, *args, **kwargs)
    _executors.add(self)


execution.PromptExecutor.__init__ = _watched_init


# -- snapshot ------------------------------------------------------------------------------------------
def snapshot() -> dict[str, Any]:
    """Thread-safe: it reads copies and plain attributes only."""
    loaded, seen = [], set()
    for entry in list(mm.current_loaded_models):
        patcher = entry.model  # a weak reference: it may be gone by now
        if patcher is None:
            continue
        seen.add(id(patcher.model))
        more = {"in_use": bool(entry.currently_used), "patches": len(patcher.patches)}
        about = _describe(patcher.model, device=entry.device, size=patcher.model_size())
        loaded.append(about | {"loaded_bytes": int(patcher.loaded_size())} | more)
    held = [
        _describe(module, device=getattr(module, "device", None), size=mm.module_size(module))
        for module in origins.known()
        if id(module) not in seen
    ]
    return {"loaded": loaded, "held_in_ram": held, "devices": [_device()], **_process()}


def _describe(module: Any, *, device: Any, size: int) -> dict[str, Any]:
    return {
        "class": type(module).__name__,
        "files": [{"folder": folder, "name": name} for folder, name in origins.of(module)],
        "device": str(device),
        "size_bytes": int(size),
    }


def _device() -> dict[str, Any]:
    device = mm.get_torch_device()
    return {
        "device": str(device),
        "total_bytes": int(mm.get_total_memory(device)),
        "free_bytes": int(mm.get_free_memory(device)),
    }


def _process() -> dict[str, int]:
    return {
        "process_bytes": psutil.Process().memory_info().rss,
        "ram_free_bytes": psutil.virtual_memory().available,
    }


# -- unloading -----------------------------------------------------------------------------------------
def unload(folder: str, name: str, *, drop: bool) -> list[str]:
    """Only in the worker thread. Returns the classes of the unloaded models; with `drop` their RAM is freed
    too."""
    file = (folder, name)
    gone = []
    for entry in list(mm.current_loaded_models):
        patcher = entry.model
        if patcher is not None and file in origins.of(patcher.model):
            gone.append(type(patcher.model).__name__)
            entry.model_unload()
            mm.current_loaded_models.remove(entry)
    if drop:
        gone += [type(module).__name__ for module in origins.known() if file in origins.of(module)]
        _forget_results(file)
    entry = patcher = None  # they would keep it alive
    gc.collect()
    mm.soft_empty_cache()
    return list(dict.fromkeys(gone))


def _forget_results(file: origins.File) -> None:
    for executor in list(_executors):
        cache = executor.caches.outputs
        results = getattr(cache, "cache", {})
        for key, value in list(results.items()):
            if any(file in origins.of(module) for module in _modules(value)):
                del results[key]
                for beside in ("used_generation", "children"):  # of the LRU cache
                    getattr(cache, beside, {}).pop(key, None)


def _modules(result: Any) -> Iterator[Any]:
    """The models within a cached node result, including those within conditioning."""
    stack = [getattr(result, "outputs", result)]
    while stack:
        item = stack.pop()
        if isinstance(item, list | tuple):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(item.values())
        else:
            # CLIP and VAE have a patcher, ControlNet wraps its model, MODEL is a patcher itself.
            patcher = getattr(item, "patcher", None) or getattr(item, "control_model_wrapped", None) or item
            module = getattr(patcher, "model", None)
            if module is not None:
                yield module
