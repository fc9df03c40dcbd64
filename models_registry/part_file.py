"""The partial file of a download, `.<name>.part`, and beside it the state needed to resume it,
`.<name>.part.json`: a restarted worker continues where the last one stopped.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from . import verifying


class Part:
    """A partial file and what the source said about it. Locked by one process at a time."""

    def __init__(self, target: Path, file: FileIO) -> None:
        self.path = target.with_name(f".{target.name}.part")
        self.file = file
        self._notes = target.with_name(f".{target.name}.part.json")

    @property
    def size(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    def resumable(self, url: str) -> str | None:
        """The validator (ETag or date) for resuming; None: start over."""
        try:
            notes = json.loads(self._notes.read_text())
        except (OSError, ValueError):
            return None
        return notes.get("validator") if notes.get("url") == url and self.size else None

    def append(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            rest = rest[self.file.write(rest) :]

    def begin(self, url: str, validator: str | None) -> None:
        """Truncate, and record what will be downloaded into it."""
        self.file.truncate(0)
        self._notes.write_text(json.dumps({"url": url, "validator": validator}))

    def publish(self, target: Path) -> None:
        os.fsync(self.file.fileno())
        self.path.rename(target)
        self._notes.unlink(missing_ok=True)

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)


@contextmanager
def open_part(target: Path, stop: threading.Event) -> Iterator[Part]:
    """The partial file, locked: two workers of one machine may download the same file.

    Waits for the other worker. Raises verifying.Stopped when `stop` is set meanwhile.
    """
    path = target.with_name(f".{target.name}.part")
    while True:
        with path.open("ab", buffering=0) as file:
            while not _lock(file):
                if stop.wait(1.0):
                    raise verifying.Stopped
            if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                yield Part(target, file)
                return
        # The previous owner has renamed or deleted it in the meantime: reopen.


def _lock(file: FileIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
