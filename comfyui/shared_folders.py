"""Reads outputs from ComfyUI's folders instead of over HTTP, if this process sees the same folders.

Neither a node that writes there nor a ComfyUI that names another folder may make this process read anything
that ComfyUI cannot read: ComfyUI has left a mark in the folder, and the file has the same owner. No part of
the path below the folder may be a link, and the file must be a regular one without other names (hard links)
on the folder's own file system. Otherwise nothing is read, and the caller asks ComfyUI for the file.

A network folder may hang for ever, and a call to it with it. So each file is opened, read and closed in a
thread of its own, and while one that took too long has not come back, its folder is not used.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO

from comfyui.errors import Unreachable
from comfyui.types import OutputFile

logger = logging.getLogger(__name__)

CHUNK = 256 * 1024  # bytes read at once
SECONDS = 10.0  # to open a file, and to read CHUNK bytes
AHEAD = 3  # steps that are not waited for: most files are opened, read and found to be complete at once
MARK = ".comfyserve-owner"  # as in comfyui_bridge.folders
_KERNEL = Path("/proc/sys/kernel/random/boot_id")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # opening a FIFO must not block


@dataclass(frozen=True)
class SharedFolder:
    """`device` and `inode` as ComfyUI sees them; they identify it for processes on the same kernel."""

    path: str
    device: int
    inode: int


def is_own_kernel(boot_id: str) -> bool:
    """Whether a process that read this id runs on the same kernel as this one."""
    try:
        return _KERNEL.read_text().strip() == boot_id
    except OSError:
        return False


_hanging: dict[SharedFolder, threading.Thread] = {}  # the latest thread that took too long


@contextmanager
def view(file: OutputFile, folders: Mapping[str, SharedFolder]) -> Iterator[Iterator[bytes] | None]:
    """The bytes of a file, read as the block iterates; None if it cannot be read here with certainty.

    Iterating raises Unreachable if the file is shorter than it was when opened, or if the folder hangs.
    """
    folder = folders.get(file.type)
    if folder is None or _hangs(folder):
        yield None
        return
    reading = _Reading(file, folder)
    try:
        yield reading.pieces() if reading.is_open() else None
    finally:
        reading.end()


def _hangs(folder: SharedFolder) -> bool:
    thread = _hanging.get(folder)
    return thread is not None and thread.is_alive()


class _Reading:
    """One file, and the thread that opens, reads and closes it, a few steps ahead of who asks for them."""

    def __init__(self, file: OutputFile, folder: SharedFolder) -> None:
        self._file = file
        self._folder = folder
        self._asked: SimpleQueue[bool] = SimpleQueue()  # for a further step, or to end
        for _ in range(AHEAD):
            self._asked.put(True)
        self._answers: SimpleQueue[bytes | Unreachable] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="shared-folder", daemon=True)
        self._thread.start()

    def is_open(self) -> bool:
        """False if it cannot be read here. To be called first."""
        try:
            return bool(self._next())
        except Unreachable:
            return False

    def pieces(self) -> Iterator[bytes]:
        while piece := self._next():
            yield piece

    def end(self) -> None:
        """Have the file closed, now or whenever the folder no longer hangs."""
        self._asked.put(False)

    def _next(self) -> bytes:
        try:
            answer = self._answers.get(timeout=SECONDS)
        except Empty:
            logger.warning("ComfyUI's folder %s hangs: outputs are fetched from ComfyUI", self._folder.path)
            _hanging[self._folder] = self._thread
            raise Unreachable("ComfyUI's folder hangs", sent=True) from None
        if isinstance(answer, Unreachable):
            raise answer
        self._asked.put(True)
        return answer

    def _run(self) -> None:
        with closing(_steps(self._file, self._folder)) as steps:
            while self._asked.get():
                self._answers.put(next(steps, b""))


def _steps(file: OutputFile, folder: SharedFolder) -> Generator[bytes | Unreachable, None, None]:
    """Something once the file is open, then its pieces, and last an error if that was not all of it."""
    stream = _opened(file, folder)
    if stream is None:
        return
    with stream:
        yield b"open"
        try:
            yield from _chunks(stream)
        except Unreachable as exc:
            yield exc


def _opened(file: OutputFile, folder: SharedFolder) -> IO[bytes] | None:
    parts = [*(file.subfolder.split("/") if file.subfolder else ()), file.filename]
    # What `/view` rejects is rejected here too; "" and "." would be other names of the same place.
    if any(part in ("", ".") or ".." in part or set("/\\\0") & set(part) for part in parts):
        return None
    try:
        descriptor = _open_below(folder, parts)
        return None if descriptor is None else os.fdopen(descriptor, "rb", buffering=0)
    except (OSError, ValueError):  # the latter for a name that no file can have, such as a lone surrogate
        return None


def _open_below(folder: SharedFolder, parts: list[str]) -> int | None:
    """A descriptor of the regular file; None if the folder or the file is another than expected."""
    at = os.open(folder.path, _FOLDER)
    try:
        found = os.fstat(at)
        if (found.st_dev, found.st_ino) != (folder.device, folder.inode):
            return None
        mark = os.stat(MARK, dir_fd=at, follow_symlinks=False)
        for part in parts[:-1]:
            inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        descriptor = os.open(parts[-1], _FILE, dir_fd=at)
    finally:
        os.close(at)
    found = os.fstat(descriptor)
    if _is_plain(found) and _is_plain(mark) and found.st_dev == folder.device and found.st_uid == mark.st_uid:
        return descriptor
    os.close(descriptor)
    return None


def _is_plain(found: os.stat_result) -> bool:
    """A regular file with one name."""
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """As many bytes as the file has now: none that are appended while it is read."""
    left = os.fstat(stream.fileno()).st_size
    while left:
        try:
            piece = os.read(stream.fileno(), min(CHUNK, left))
        except OSError as exc:
            raise Unreachable(f"a file in ComfyUI's folder cannot be read: {exc}", sent=True) from exc
        if not piece:
            raise Unreachable("a file in ComfyUI's folder was cut while it was read", sent=True)
        left -= len(piece)
        yield piece
