"""An incoming file, counted and hashed as it is written: in memory while short, else on the local disk."""

from __future__ import annotations

import ctypes
import hashlib
import os
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import IO

from blake3 import blake3
from django.conf import settings

from . import backend, types
from .errors import StorageUnavailable

CHUNK_BYTES = 1024 * 1024  # bytes read at once
IN_MEMORY = 256 * 1024  # bytes of a file that is not written to the local disk
WRITE_BACK = 4 * 1024 * 1024  # bytes after which the disk begins to write, while more arrive

# int sync_file_range(int descriptor, off64_t offset, off64_t length, unsigned flags), which Python lacks. It
# is a hint only: the storage syncs what it stores.
_sync_file_range = ctypes.CDLL(None).sync_file_range
_sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_START = 2  # SYNC_FILE_RANGE_WRITE: begin, and do not wait


class Incoming:
    """Its file, if any, is deleted when the `with` block ends, unless it was moved into the storage."""

    def __init__(self) -> None:
        self.size = 0
        self._written_back = 0  # bytes that the disk writes already
        self.head = b""  # the first bytes, to detect the type
        self._digest = hashlib.sha256()
        self._blake3 = blake3()
        self._in_memory = bytearray()
        self._stream: IO[bytes] | None = None  # of the file that has all of it
        # A client may disconnect while a thread writes, and the descriptor of a closed file could be reused.
        self._writing = threading.Lock()
        self._closed = False

    def write(self, piece: bytes) -> None:
        """StorageUnavailable if the local disk is full. Does nothing if already closed."""
        with self._writing:
            if self._closed:
                return
            if self._stream is None and self.size + len(piece) <= IN_MEMORY:
                self._in_memory += piece
            else:
                _write(self._on_disk(), piece)
                self._write_back_early()
            self._count(piece)

    def _write_back_early(self) -> None:
        """The sync at the end, which the client waits for, then finds little left to write."""
        if self._stream is None or backend.bucket() is not None:
            return  # it does not stay on this disk
        if self.size - self._written_back >= WRITE_BACK:
            begin, self._written_back = self._written_back, self.size
            _sync_file_range(self._stream.fileno(), begin, self.size - begin, _START)

    def _count(self, piece: bytes) -> None:
        if len(self.head) < types.HEAD:
            self.head += piece[: types.HEAD - len(self.head)]
        self._digest.update(piece)
        self._blake3.update(piece)
        self.size += len(piece)

    def _on_disk(self) -> IO[bytes]:
        """The stream of its file, which is made now if it was in memory."""
        if self._stream is None:
            if self._closed:
                raise StorageUnavailable
            self._stream = _new_file()
            _write(self._stream, self._in_memory)
            self._in_memory = bytearray()
        return self._stream

    def adopt(self) -> None:
        """Use what another process has written to the path as the content."""
        try:
            with self.path.open("rb") as stream:
                while piece := stream.read(CHUNK_BYTES):
                    self._count(piece)
        except OSError as exc:
            raise StorageUnavailable from exc

    @property
    def content(self) -> bytes | Path:
        """All of it, or the path of the file that has it."""
        return bytes(self._in_memory) if self._stream is None else self.path

    @property
    def path(self) -> Path:
        """Of its file, for those that read or write one. StorageUnavailable if the local disk is full."""
        with self._writing:
            return Path(self._on_disk().name)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    @property
    def blake3(self) -> str:
        return self._blake3.hexdigest()

    def __enter__(self) -> Incoming:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._writing:
            self._closed = True
            if self._stream is not None:
                self._stream.close()
                Path(self._stream.name).unlink(missing_ok=True)


def _new_file() -> IO[bytes]:
    try:
        settings.INCOMING_DIR.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=settings.INCOMING_DIR)
        os.close(handle)
        return Path(name).open("wb", buffering=0)
    except OSError as exc:
        raise StorageUnavailable from exc


def _write(stream: IO[bytes], content: bytes | bytearray) -> None:
    view = memoryview(content)
    try:
        while view:
            view = view[stream.write(view) :]
    except OSError as exc:
        raise StorageUnavailable("There is no space for the file at the moment; try again later") from exc
