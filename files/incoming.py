"""An incoming file: on the local disk, counted and hashed as it is written."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from pathlib import Path
from types import TracebackType

from blake3 import blake3
from django.conf import settings

from . import types
from .errors import StorageUnavailable

CHUNK_BYTES = 1024 * 1024  # bytes read at once


class Incoming:
    """Deleted when the `with` block ends, unless it was moved into the storage."""

    def __init__(self) -> None:
        try:
            settings.INCOMING_DIR.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=settings.INCOMING_DIR)
        except OSError as exc:
            raise StorageUnavailable from exc
        self.path = Path(name)
        self._stream = open(handle, "wb", buffering=0)  # noqa: PTH123, SIM115  (closed in __exit__)
        self.size = 0
        self.head = b""  # the first bytes, to detect the type
        self._digest = hashlib.sha256()
        self._blake3 = blake3()
        # A client may disconnect while a thread writes, and the descriptor of a closed file could be reused.
        self._writing = threading.Lock()

    def write(self, piece: bytes) -> None:
        """StorageUnavailable if the local disk is full. Does nothing if already closed."""
        with self._writing:
            if not self._stream.closed:
                self._write(piece)

    def _write(self, piece: bytes) -> None:
        view = memoryview(piece)
        try:
            while view:
                view = view[self._stream.write(view) :]
        except OSError as exc:
            raise StorageUnavailable("There is no space for the file at the moment; try again later") from exc
        if len(self.head) < types.HEAD:
            self.head += piece[: types.HEAD - len(self.head)]
        self._digest.update(piece)
        self._blake3.update(piece)
        self.size += len(piece)

    def adopt(self) -> None:
        """Use what another process has written to the path as the content."""
        try:
            with self.path.open("rb") as stream:
                while piece := stream.read(CHUNK_BYTES):
                    if len(self.head) < types.HEAD:
                        self.head += piece[: types.HEAD - len(self.head)]
                    self._digest.update(piece)
                    self._blake3.update(piece)
                    self.size += len(piece)
        except OSError as exc:
            raise StorageUnavailable from exc

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
            self._stream.close()
            self.path.unlink(missing_ok=True)
