"""Tracks which files in ComfyUI's input folder are in use, so that cleanup keeps them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID


class PlacedInputs:
    """The files on its ComfyUI that runs of this process need, whether placed by them or already there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._needed: dict[UUID, set[str]] = {}

    def need(self, token: UUID, name: str) -> None:
        """Keep the file until `release`. Call this before checking whether it exists."""
        with self._lock:
            self._needed.setdefault(token, set()).add(name)

    def release(self, token: UUID) -> None:
        """The claim's run is over, whatever the outcome."""
        with self._lock:
            self._needed.pop(token, None)

    @contextmanager
    def unneeded(self, names: set[str]) -> Iterator[list[str]]:
        """The names that may be deleted; `need` blocks until the context is left."""
        with self._lock:
            yield sorted(names - set[str]().union(*self._needed.values()))
