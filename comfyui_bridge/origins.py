"""Tracks from which files a model in memory was loaded.

Every loader node resolves its file's name through `folder_paths.get_full_path`, and every model that ComfyUI
manages is wrapped in a `ModelPatcher`. Both are hooked: the files a node resolved before it made a model are
the model's origin. "The last file resolved" would be wrong: other nodes run in between.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import comfy.model_patcher
import folder_paths
from comfy_execution.utils import get_executing_context

File = tuple[str, str]  # (folder, name), with ComfyUI's names

# Resolved by nodes that patch a model; the model does not come from them.
NOT_MODELS = {"loras", "embeddings", "configs", "hypernetworks", "custom_nodes"}

_lock = threading.Lock()  # nodes run in ComfyUI's worker thread, queries in its event loop
_files: weakref.WeakKeyDictionary[Any, tuple[File, ...]] = weakref.WeakKeyDictionary()
_node: tuple[Any, list[File]] = (None, [])  # the running node, and the files it has resolved so far


def of(module: Any) -> tuple[File, ...]:
    """The files a model came from; empty if unknown."""
    try:
        with _lock:
            return _files.get(module, ())
    except TypeError:  # not hashable, or no weak reference to it can be made
        return ()


def known() -> list[Any]:
    """All models in memory with a known origin, on the device or not."""
    with _lock:
        return list(_files)


def watch() -> None:
    get_full_path = folder_paths.get_full_path
    init = comfy.model_patcher.ModelPatcher.__init__

    def watched_full_path(folder_name: str, filename: str) -> str | None:
        path: str | None = get_full_path(folder_name, filename)
        if path is not None:
            _asked(folder_paths.map_legacy(folder_name), filename)
        return path

    def watched_init(self: Any, model: Any, *args: Any, **kwargs: Any) -> None:
        init(self, model, *args, **kwargs)
        _made(model)

    folder_paths.get_full_path = watched_full_path
    comfy.model_patcher.ModelPatcher.__init__ = watched_init


def _asked(folder: str, name: str) -> None:
    asked = _asked_by_this_node()
    if asked is not None and folder not in NOT_MODELS:
        asked.append((folder, str(name).replace("\\", "/")))


def _made(model: Any) -> None:
    asked = _asked_by_this_node()
    try:
        with _lock:
            if asked is not None and model not in _files:  # a clone shares its model, which is known
                _files[model] = tuple(dict.fromkeys(asked))
    except TypeError:
        pass  # it stays unknown


def _asked_by_this_node() -> list[File] | None:
    """None outside of a prompt: a route, a validation."""
    global _node
    context = get_executing_context()
    if context is None:
        return None
    if _node[0] != context:
        _node = (context, [])
    return _node[1]
