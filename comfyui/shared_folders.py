"""Reads outputs from ComfyUI's folders instead of over HTTP, if this process sees the same folders.

Neither a node that writes there nor a ComfyUI that names another folder may make this process read anything
that ComfyUI cannot read: ComfyUI has left a mark in the folder, and the file has the same owner. No part of
the path below the folder may be a link, and the file must be a regular one without other names (hard links)
on the folder's own file system. Otherwise nothing is read, and the caller asks ComfyUI for the file.

A call to a network file system may hang for ever. Reading in a thread that can be left to hang costs most of
what is saved here, so only folders on local file systems are used.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from comfyui.errors import Unreachable
from comfyui.types import OutputFile

CHUNK = 256 * 1024  # bytes read at once
MARK = ".comfyserve-owner"  # as in comfyui_bridge.folders
LOCAL = frozenset(
    ("bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs")
)
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


def is_local(path: str) -> bool:
    """Whether the folder, a real path, is on a local file system. Does not touch it."""
    mounts = [each for each in psutil.disk_partitions(all=True) if Path(path).is_relative_to(each.mountpoint)]
    mounts.reverse()  # the latest of several at one place hides the others
    return bool(mounts) and max(mounts, key=lambda each: len(each.mountpoint)).fstype in LOCAL


@contextmanager
def view(file: OutputFile, folders: Mapping[str, SharedFolder]) -> Iterator[Iterator[bytes] | None]:
    """The bytes of a file, read as the block iterates; None if it cannot be read here with certainty.

    Iterating raises Unreachable if the file is shorter than it was when opened.
    """
    stream = _opened(file, folders.get(file.type))
    if stream is None:
        yield None
        return
    with stream:
        yield _chunks(stream)


def _opened(file: OutputFile, folder: SharedFolder | None) -> IO[bytes] | None:
    parts = [*(file.subfolder.split("/") if file.subfolder else ()), file.filename]
    # What `/view` rejects is rejected here too; "" and "." would be other names of the same place.
    if folder is None or any(part in ("", ".") or ".." in part or set("/\\\0") & set(part) for part in parts):
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
            piece = stream.read(min(CHUNK, left))
        except OSError as exc:
            raise Unreachable(f"a file in ComfyUI's folder cannot be read: {exc}", sent=True) from exc
        if not piece:
            raise Unreachable("a file in ComfyUI's folder was cut while it was read", sent=True)
        left -= len(piece)
        yield piece
