"""Which files in ComfyUI's input folder are in use, so that cleanup leaves them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID


class PlacedInputs:
    """The files on its ComfyUI that runs of this process need, placed by them or found there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._needed: dict[UUID, set[str]] = {}

    def need(self, token: UUID, name: str) -> None:
        """From here on it stays, until `release`. Say it before you look whether it is there."""
        with self._lock:
            self._needed.setdefault(token, set()).add(name)

    def release(self, token: UUID) -> None:
        """The claim's run is over, however."""
        with self._lock:
            self._needed.pop(token, None)

    @contextmanager
    def unneeded(self, names: set[str]) -> Iterator[list[str]]:
        """Those of them that may go; nobody begins to need one until the block is left."""
        with self._lock:
            yield sorted(names - set[str]().union(*self._needed.values()))
