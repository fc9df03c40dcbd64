"""Small disks that can be filled: in-memory file systems, if mounting is permitted (root on Linux)."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path


class Disk:
    """Mount a file system at `folder`. Its previous contents are moved onto it."""

    def __init__(self, folder: Path, *, megabytes: int) -> None:
        self.folder = folder
        self._megabytes = megabytes
        self._ballast = folder / ".ballast"

    def mount(self) -> bool:
        """False if not permitted: nothing has changed then."""
        if os.geteuid() != 0 or shutil.which("mount") is None:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [
            "mount",
            "-t",
            "tmpfs",
            "-o",
            f"size={self._megabytes}m,mode=0755",
            "none",
            str(self.folder),
        ]
        return subprocess.run(command, capture_output=True).returncode == 0

    def fill(self) -> None:
        """Fill it completely."""
        with self._ballast.open("wb", buffering=0) as file:
            for size in (2**20, 2**12):
                try:
                    while file.write(b"\0" * size) == size:
                        pass
                except OSError as exc:
                    if exc.errno != errno.ENOSPC:
                        raise

    def empty(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Lazily: processes that still use it keep it until they exit."""
        subprocess.run(["umount", "--lazy", self.folder], capture_output=True)
