"""Each ComfyServe prompt sees its own input, output and temp folders, and nothing else.

ComfyServe sends with a prompt, in `extra_data.comfyserve`: the mark of the attempt (`<execution
id>.<attempt>`), the placed inputs that it may read, the workflow as its user sent it, and the limits after
which `watchdog` restarts ComfyUI. While ComfyUI validates or executes that prompt, the functions of
`folder_paths` return the folder `<mark>` below the shared one, and reject paths outside. ComfyUI executes one
prompt at a time; prompts of other clients see the shared folders as usual.
"""

from __future__ import annotations

import contextvars
import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import execution
import folder_paths
from aiohttp import web
from comfy_execution.graph import DynamicPrompt
from server import PromptServer

from . import watchdog
from .marks import INPUT, INPUTS, MARK

KEY = "comfyserve"  # in extra_data
KINDS = ("output", "temp", "input")
DEFAULT_PREFIX = "ComfyUI"
NOT_VIEWABLE = re.compile(r"[\x00-\x1f\x7f]|\.(?=\.)")  # of a name

_stock: dict[str, Callable[..., Any]] = {
    name: getattr(folder_paths, name)
    for name in (
        "get_output_directory", "get_temp_directory", "get_input_directory", "get_annotated_filepath",
        "exists_annotated_filepath", "get_save_image_path", "get_input_subfolders",
    )
}  # fmt: skip


class OutsideItsFolders(PermissionError):
    """A node requested a path outside its prompt's folders."""


@dataclass(frozen=True)
class Roots:
    """The folders of one attempt, and the workflow that its files may carry as metadata."""

    mark: str
    inputs: tuple[str, ...]
    workflow: Any
    limits: watchdog.Limits | None = None

    def of(self, kind: str) -> str:
        return os.path.join(shared(kind), self.mark)

    def holds(self, path: str) -> bool:
        found = os.path.abspath(path)
        return any(_is_below(found, self.of(kind)) for kind in KINDS)

    def prepare(self) -> None:
        """Create the folders, with the inputs that this prompt may read linked into its own."""
        for kind in KINDS:
            os.makedirs(self.of(kind), exist_ok=True)
        placed = os.path.join(self.of("input"), INPUTS)
        os.makedirs(placed, exist_ok=True)
        for name in self.inputs:
            _link(os.path.join(shared("input"), INPUTS, name), os.path.join(placed, name))

    def drop_inputs(self) -> None:
        shutil.rmtree(self.of("input"), ignore_errors=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except FileNotFoundError:
        return  # deleted in the meantime: the node reports it
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def shared(kind: str) -> str:
    """The folder shared by all prompts: `kind` is output, temp or input."""
    return str(_stock[f"get_{kind}_directory"]())


# -- the current prompt ----------------------------------------------------------------------------------
_running: Roots | None = None  # executing, in ComfyUI's worker thread and threads started by its nodes
_request: contextvars.ContextVar[Roots | bool] = contextvars.ContextVar("comfyserve_roots", default=False)
_NOBODY = True  # a request that belongs to none of our prompts


def current() -> Roots | None:
    """The roots of the current prompt; None if it is not ComfyServe's."""
    known = _request.get()
    if isinstance(known, Roots):
        return known
    if known is _NOBODY or threading.current_thread() is threading.main_thread():
        return None
    return _running


def roots_of(extra_data: Any) -> Roots | None:
    """The data sent by ComfyServe. ValueError if malformed: such a prompt must not run unconfined."""
    extra = extra_data.get(KEY) if isinstance(extra_data, dict) else None
    if extra is None:
        return None
    mark, inputs = str(extra.get("mark", "")), tuple(str(name) for name in extra.get("inputs", ()))
    if not MARK.fullmatch(mark) or not all(INPUT.fullmatch(name) for name in inputs):
        raise ValueError("extra_data.comfyserve is malformed")
    return Roots(mark, inputs, extra.get("workflow"), watchdog.limits_of(extra))


@web.middleware
async def _per_request(request: web.Request, handler: Any) -> Any:
    """Requests see the shared folders, also in the threads that they use while a prompt runs."""
    _request.set(_NOBODY)
    return await handler(request)


def _on_prompt(json_data: Any) -> Any:
    """A prompt is posted: the rest of this request validates it, in its own folders."""
    try:
        roots = roots_of(json_data.get("extra_data"))
        if roots is not None:
            roots.prepare()
            _request.set(roots)
            watchdog.watch_silence(roots.limits)
    except (ValueError, AttributeError, OSError):
        logging.exception("ComfyServe: a prompt cannot be confined and is rejected")
        json_data = {**json_data, "prompt": {}}
    return json_data


def _execute(
    self: Any, prompt: Any, prompt_id: str, extra_data: Any = None, *args: Any, **kwargs: Any
) -> Any:
    global _running
    roots = roots_of(extra_data)
    if roots is not None:
        roots.prepare()  # again: it may have been queued for a long time
    _rebase(self.caches.objects, roots)
    _running = roots
    try:
        with watchdog.watched(prompt_id, roots.limits if roots else None):
            return _stock_execute(self, prompt, prompt_id, extra_data or {}, *args, **kwargs)
    finally:
        _running = None
        if roots is not None:
            roots.drop_inputs()


def _rebase(objects: Any, roots: Roots | None) -> None:
    """Nodes store the folder when constructed and outlive a prompt: give them the new one."""
    for node in list(_nodes_in(objects)):
        for name, value in list(getattr(node, "__dict__", {}).items()):
            if isinstance(value, str) and (place := _place_of(value)) is not None:
                kind, rest = place
                root = roots.of(kind) if roots else shared(kind)
                setattr(node, name, os.path.join(root, rest).rstrip(os.sep))


def _nodes_in(objects: Any) -> Iterator[Any]:
    yield from getattr(objects, "cache", {}).values()
    for inner in getattr(objects, "subcaches", {}).values():
        yield from _nodes_in(inner)


def _place_of(path: str) -> tuple[str, str] | None:
    """(kind, the path below the shared folder or that of any prompt)."""
    for kind in KINDS:
        if _is_below(path, shared(kind)):
            parts = Path(os.path.relpath(path, shared(kind))).parts
            if parts and MARK.fullmatch(parts[0]):
                parts = parts[1:]
            return kind, os.path.join(*parts) if parts else ""
    return None


def _is_below(path: str, root: str) -> bool:
    try:
        return os.path.isabs(path) and os.path.commonpath((path, root)) == root
    except ValueError:  # another drive
        return False


# -- patched functions ------------------------------------------------------------------------------------
def _directory(kind: str) -> Callable[[], str]:
    def directory() -> str:
        roots = current()
        return roots.of(kind) if roots else shared(kind)

    return directory


def _annotated_filepath(name: str, default_dir: str | None = None) -> str:
    path: str = _stock["get_annotated_filepath"](name, default_dir)
    roots = current()
    if roots is not None and not roots.holds(path):
        raise OutsideItsFolders("A workflow reads only files that were given to it")
    return path


def _exists_annotated_filepath(name: str) -> bool:
    try:
        return os.path.exists(_annotated_filepath(name))
    except OutsideItsFolders:
        return False


def _save_image_path(filename_prefix: Any, output_dir: str, *args: Any, **kwargs: Any) -> Any:
    roots = current()
    if roots is None:
        return _stock["get_save_image_path"](filename_prefix, output_dir, *args, **kwargs)
    place = _place_of(os.path.abspath(output_dir))
    if place is None:
        raise OutsideItsFolders("A workflow writes only into its own folders")
    root = os.path.join(roots.of(place[0]), place[1]).rstrip(os.sep)
    prefix = literal_prefix(filename_prefix, mark=roots.mark)
    folder, filename, counter, _, prefix = _stock["get_save_image_path"](prefix, root, *args, **kwargs)
    below = os.path.relpath(folder, shared(place[0]))
    return folder, filename, counter, below.replace(os.sep, "/"), prefix


def literal_prefix(prefix: Any, *, mark: str) -> str:
    """As a path below the prompt's folder: no "..", no root, not empty. It may already start with the
    mark. What ComfyUI's `/view` rejects, such as "v1..final" or a newline, is replaced by `_`."""
    parts = [part for part in str(prefix).replace("\\", "/").split("/") if part not in ("", ".", "..")]
    parts = [NOT_VIEWABLE.sub("_", part) for part in parts]
    if parts and parts[0] == mark:
        parts = parts[1:]
    return "/".join(parts) or DEFAULT_PREFIX


def _input_subfolders() -> list[str]:
    """Outside of a prompt the shared ones, without those of ComfyServe: their names are private."""
    found: list[str] = _stock["get_input_subfolders"]()
    if current() is not None:
        return found
    return [name for name in found if not _is_ours(name.partition("/")[0])]


def _is_ours(name: str) -> bool:
    return name == INPUTS or MARK.fullmatch(name) is not None


def _original_prompt(self: Any) -> Any:
    """Metadata that nodes write into files: the user's own workflow, without our names."""
    roots = current()
    return roots.workflow if roots and roots.workflow is not None else self.original_prompt


# -- patching --------------------------------------------------------------------------------------------
_ours: dict[str, Callable[..., Any]] = {
    **{f"get_{kind}_directory": _directory(kind) for kind in KINDS},
    "get_annotated_filepath": _annotated_filepath,
    "exists_annotated_filepath": _exists_annotated_filepath,
    "get_save_image_path": _save_image_path,
    "get_input_subfolders": _input_subfolders,
}
_stock_execute = execution.PromptExecutor.execute


def confine() -> None:
    """Once, when ComfyUI loads its custom nodes. Modules that imported a function by name are patched too."""
    for name, stock in _stock.items():
        for module in list(sys.modules.values()):
            if getattr(module, "__dict__", {}).get(name) is stock:
                setattr(module, name, _ours[name])
    execution.PromptExecutor.execute = _execute
    DynamicPrompt.get_original_prompt = _original_prompt
    PromptServer.instance.add_on_prompt_handler(_on_prompt)
    PromptServer.instance.app.middlewares.append(_per_request)
