"""What executions leave in ComfyUI's folders and history, and its deletion: only what is ComfyServe's.

Ours are folders with a mark, files that our prompts list as outputs, inputs named by their content hash in
our own folder, and history of prompts with our mark.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import folder_paths
from server import PromptServer

from .marks import INPUT, INPUTS, MARK

OLD_TEMP = 3600.0  # seconds
MARKED_INPUT = "_comfyserve"  # of output nodes in our prompts


# -- listing -------------------------------------------------------------------------------------------
def found() -> dict[str, Any]:
    """By name, each with the seconds since its last change: marks, inputs, prompts in history.

    Files in temp without a mark are deleted once they are OLD_TEMP seconds old: ComfyUI itself empties that
    folder only when it starts.
    """
    _delete_old_temp()
    return {"marks": _marks(), "inputs": _inputs(), "history": _history()}


def _delete_old_temp() -> None:
    try:
        entries = list(os.scandir(folder_paths.get_temp_directory()))
    except OSError:
        return
    for entry in entries:
        try:
            is_old = time.time() - entry.stat(follow_symlinks=False).st_mtime > OLD_TEMP
            if is_old and entry.is_file(follow_symlinks=False):
                Path(entry.path).unlink()
        except OSError:
            continue  # deleted concurrently


def _marks() -> dict[str, float]:
    ages: dict[str, float] = {}
    for place in _places():
        for name, age in _entries(place, MARK):
            ages[name] = min(age, ages.get(name, age))
    return ages


def _inputs() -> dict[str, float]:
    return dict(_entries(Path(folder_paths.get_input_directory()) / INPUTS, INPUT))


def _history() -> dict[str, float]:
    ages = {}
    queue = PromptServer.instance.prompt_queue
    with queue.mutex:
        entries = list(queue.history.items())
    for prompt_id, entry in entries:
        if any(MARKED_INPUT in inputs for inputs in _inputs_of(entry.get("prompt"))):
            messages = (entry.get("status") or {}).get("messages") or ()
            ended = max((float(about.get("timestamp", 0)) for _, about in messages), default=0.0)
            ages[str(prompt_id)] = time.time() - ended / 1000
    return ages


def _entries(place: Path, pattern: re.Pattern[str]) -> Iterator[tuple[str, float]]:
    try:
        entries = list(os.scandir(place))
    except OSError:
        return
    for entry in entries:
        if pattern.fullmatch(entry.name):
            try:
                yield entry.name, time.time() - entry.stat(follow_symlinks=False).st_mtime
            except OSError:
                continue  # deleted concurrently


def use(name: str, *, older: float) -> int | None:
    """The size of an input, None if missing. If it was changed more than `older` seconds ago, its time is
    refreshed: other ComfyUIs may share the folder, and their workers see when it was last used."""
    if not INPUT.fullmatch(name):
        raise ValueError(f"{name[:100]!r} is not ComfyServe's")
    path = Path(folder_paths.get_input_directory()) / INPUTS / name
    try:
        stat = path.stat()
        if time.time() - stat.st_mtime > older:
            os.utime(path)
    except OSError:
        return None
    return stat.st_size


# -- deleting ------------------------------------------------------------------------------------------
def delete(
    *,
    marks: list[str],
    inputs: list[str],
    files: list[dict[str, Any]],
    since: float | None,
    until: float | None,
) -> tuple[int, int]:
    """Delete the folders of these marks in output, temp and input; inputs that no running or waiting prompt
    references, whoever posted it; output and temp files last written between `since` and `until` (seconds
    since the epoch; without `since` none, without `until` all later ones). Returns (files, bytes) deleted.
    ValueError for names that are not ours."""
    for name, pattern in [(mark, MARK) for mark in marks] + [(name, INPUT) for name in inputs]:
        if not pattern.fullmatch(name):
            raise ValueError(f"{name[:100]!r} is not ComfyServe's")
    gone = [size for mark in marks for size in _delete_marked(mark)]
    if inputs:
        needed = _names_in_queue()
        gone += [size for name in inputs if name not in needed for size in _delete_input(name)]
    if since is not None:
        written = (since, float("inf") if until is None else until)
        gone += [size for file in files for size in _delete_written(file, written, marks=marks)]
    return len(gone), sum(gone)


def _delete_marked(mark: str) -> Iterator[int]:
    for place in _places():
        folder = place / mark
        if folder.is_symlink() or not folder.is_dir():
            continue
        for directory, _, names in os.walk(folder):
            for name in names:
                yield (Path(directory) / name).lstat().st_size
        shutil.rmtree(folder, ignore_errors=True)


def _delete_input(name: str) -> Iterator[int]:
    yield from _unlink(Path(folder_paths.get_input_directory()) / INPUTS / name)


def _delete_written(file: dict[str, Any], written: tuple[float, float], *, marks: list[str]) -> Iterator[int]:
    """A node may name anything as its output: files elsewhere, of another attempt, or last written outside
    these times, are kept."""
    place = {"output": folder_paths.get_output_directory, "temp": folder_paths.get_temp_directory}.get(
        str(file.get("type"))
    )
    if place is None:
        return
    root = Path(place()).resolve()
    try:
        path = (root / str(file.get("subfolder", "")) / str(file["filename"])).resolve()
        if not path.is_relative_to(root):
            return
        first = path.relative_to(root).parts[:1]
        if first and MARK.fullmatch(first[0]) and first[0] not in marks:
            return
        if path.is_file() and written[0] <= path.stat().st_mtime <= written[1]:
            yield from _unlink(path)
    except (OSError, ValueError):  # deleted, or not a valid file name
        return


def _unlink(path: Path) -> Iterator[int]:
    try:
        size = path.lstat().st_size
        path.unlink()
    except OSError:
        return
    yield size


def _names_in_queue() -> set[str]:
    running, pending = PromptServer.instance.prompt_queue.get_current_queue()
    return {
        value.rpartition("/")[2]
        for item in [*running, *pending]
        for inputs in _inputs_of(item)
        for value in inputs.values()
        if isinstance(value, str)
    }


def _inputs_of(item: Any) -> Iterable[dict[str, Any]]:
    """The inputs of each node of a prompt as ComfyUI queues it: (number, id, graph, ...)."""
    graph = item[2] if isinstance(item, list | tuple) and len(item) > 2 else {}
    nodes = graph.values() if isinstance(graph, dict) else ()
    return [
        inputs for node in nodes if isinstance(node, dict) and isinstance(inputs := node.get("inputs"), dict)
    ]


def _places() -> list[Path]:
    return [
        Path(folder_paths.get_output_directory()),
        Path(folder_paths.get_temp_directory()),
        Path(folder_paths.get_input_directory()),
    ]
