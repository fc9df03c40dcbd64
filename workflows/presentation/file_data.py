"""The content of a result's files in base64, for requests with `include=data`."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable

from files import storing
from files.errors import BytesMissing, StorageUnavailable
from files.models import ConvertedFile, File
from workflows.models import Output

LARGEST_FILE = 8 * 1024 * 1024  # bytes; larger ones are downloaded from their URL
LARGEST_RESULT = 16 * 1024 * 1024  # bytes of all its files; building the response takes about six times that
READING_SECONDS = 20.0  # after that, no further files of a result are read
PIECE = 1024 * 1024  # bytes read at once


def read(outputs: Iterable[Output]) -> dict[int, str]:
    """The content by the output's position: of the converted file if there is one, else of the original.

    Without those that are too large, missing from the storage, or not read in time. For threads that hold no
    database connection, as the storage may be slow.
    """
    room, until = LARGEST_RESULT, time.monotonic() + READING_SECONDS
    found: dict[int, str] = {}
    for output in outputs:
        stored = output.converted or output.file
        if stored is None or stored.size > min(LARGEST_FILE, room):
            continue
        content = _content(stored, until=until)
        if content is not None:
            room -= len(content)
            found[output.position] = base64.b64encode(content).decode()
    return found


def _content(stored: File | ConvertedFile, *, until: float) -> bytes | None:
    """None if it is missing or incomplete, or not read until then (monotonic)."""
    content = bytearray()
    try:
        with storing.opened(stored) as reader:
            while len(content) < stored.size and time.monotonic() < until:
                piece = reader.read(min(PIECE, stored.size - len(content)))
                if not piece:
                    break
                content += piece
    except (BytesMissing, StorageUnavailable):
        return None
    return bytes(content) if len(content) == stored.size else None
