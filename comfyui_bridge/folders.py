"""Where ComfyUI's output and temp folders are, for workers that see them too and read outputs there.

A worker reads nothing that ComfyUI cannot read: only in a folder with our mark, and only files of its owner.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .confinement import shared

KERNEL = Path("/proc/sys/kernel/random/boot_id")  # on Linux; the same in all containers of a machine
MARK = ".comfyserve-owner"  # an empty file in each folder


def described() -> dict[str, Any]:
    """The running kernel, and path, device and inode of each folder: on one kernel these identify it.

    {} on other systems, or if a folder is missing or cannot be written to.
    """
    try:
        kernel = KERNEL.read_text().strip()
        return {"kernel": kernel, "folders": {kind: _folder(shared(kind)) for kind in ("output", "temp")}}
    except OSError:
        return {}


def _folder(path: str) -> dict[str, Any]:
    """By its real path, from which the file system can be told."""
    real = Path(path).resolve()
    _mark(real / MARK)
    stat = real.stat()
    return {"path": str(real), "device": stat.st_dev, "inode": stat.st_ino}


def _mark(path: Path) -> None:
    if path.exists():
        if path.stat().st_uid == os.geteuid():
            return
        path.unlink()  # ComfyUI ran as another user before
    path.touch()
