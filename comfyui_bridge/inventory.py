"""Model files as ComfyUI finds them, and the headers of safetensors files. No model is loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import folder_paths

NOT_MODELS = {"configs", "custom_nodes", "diffusers", "datasets"}
MAX_HEADER = 100_000_000  # bytes; the safetensors library's own limit


def files() -> dict[str, Any]:
    """Folder name -> its places, its extensions, and its files as (name, path, size, time of change)."""
    found: dict[str, Any] = {}
    for folder, (places, extensions) in list(folder_paths.folder_names_and_paths.items()):
        if folder in NOT_MODELS:
            continue
        listed: dict[str, tuple[str, str, int, float]] = {}
        for place in places:
            for name, path, size, changed in _walk(place, set(extensions)):
                listed.setdefault(
                    name, (name, path, size, changed)
                )  # the first directory wins, as in ComfyUI
        found[folder] = {
            "places": list(places),
            "extensions": sorted(extensions),
            "files": list(listed.values()),
        }
    return found


def _walk(place: str, extensions: set[str]) -> list[tuple[str, str, int, float]]:
    found = []
    seen: set[str] = set()  # real paths: a link may lead back up
    stack = [(place, "")]
    while stack:
        directory, prefix = stack.pop()
        real = os.path.realpath(directory)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = list(os.scandir(directory))
        except OSError:
            continue
        for entry in entries:
            name = prefix + entry.name
            try:
                if entry.is_dir():
                    if entry.name != ".git":
                        stack.append((entry.path, f"{name}/"))
                elif not extensions or Path(entry.name).suffix.lower() in extensions:
                    stat = entry.stat()
                    found.append((name, entry.path, stat.st_size, stat.st_mtime))
            except OSError:
                continue  # a dangling link
    return found


def header(folder: str, name: str) -> dict[str, Any] | None:
    """The header of a safetensors file; None if there is no such file, or it has none."""
    path = folder_paths.get_full_path(folder, name) if folder in folder_paths.folder_names_and_paths else None
    if path is None or not path.endswith((".safetensors", ".sft")):
        return None
    with Path(path).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER, Path(path).stat().st_size):
            return None
        try:
            parsed = json.loads(file.read(length))
        except ValueError:
            return None
    return parsed if isinstance(parsed, dict) else None
