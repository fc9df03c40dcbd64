"""Deleting what executions left in ComfyUI's folders: only folders that carry ComfyServe's mark."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import folder_paths

# <execution id>.<attempt>
MARK = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\.\d{1,9}")


def delete(marks: list[str]) -> tuple[int, int]:
    """The folders of these marks, in output, temp and input. (files, bytes) that went."""
    files = size = 0
    for mark in marks:
        if not MARK.fullmatch(mark):
            raise ValueError(f"{mark[:100]!r} is no mark of ComfyServe's")
        for place in _places():
            folder = place / mark
            if folder.is_symlink() or not folder.is_dir():
                continue
            for directory, _, names in os.walk(folder):
                for name in names:
                    files += 1
                    size += (Path(directory) / name).lstat().st_size
            shutil.rmtree(folder, ignore_errors=True)
    return files, size


def marks() -> list[str]:
    """All marks that have a folder here."""
    found = {
        entry.name
        for place in _places()
        if place.is_dir()
        for entry in place.iterdir()
        if MARK.fullmatch(entry.name)
    }
    return sorted(found)


def _places() -> list[Path]:
    return [
        Path(folder_paths.get_output_directory()),
        Path(folder_paths.get_temp_directory()),
        Path(folder_paths.get_input_directory()),
    ]
