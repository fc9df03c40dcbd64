"""The content of a result's files in base64, for requests with `include=data`."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable

from comfyserve.api.rendering import JSONText
from files import storing
from files.errors import BytesMissing, StorageUnavailable
from files.models import ConvertedFile, File
from workflows.models import Output

LARGEST_FILE = 8 * 1024 * 1024  # bytes; larger ones are downloaded from their URL
LARGEST_RESULT = 16 * 1024 * 1024  # bytes of all its files; building the response takes about six times that
READING_SECONDS = 20.0  # after that, no further files of a result are read
PIECE = 3 * 256 * 1024  # bytes read or encoded at once; a multiple of three, as base64 is joined


def read(outputs: Iterable[Output]) -> dict[int, JSONText]:
    """The content by the output's position: of the converted file if there is one, else of the original.

    Without those that are deleted, too large, missing from the storage, or not read in time. For threads that
    hold no database connection, as the storage may be slow.
    """
    room, until = LARGEST_RESULT, time.monotonic() + READING_SECONDS
    found: dict[int, JSONText] = {}
    for output in outputs:
        # What a deleted file was converted to may still be there, for others with the same content.
        stored = output.file and (output.converted or output.file)
        if stored is None or stored.size > min(LARGEST_FILE, room):
            continue
        if time.monotonic() >= until:  # opening another one may take as long as it takes to fail
            break
        content = _content(stored, until=until)
        if content is not None:
            room -= len(content)
            found[output.position] = _encoded(content)
    return found


def _encoded(content: bytearray) -> JSONText:
    """Needs no escaping. In pieces, so that other threads have their turn."""
    view = memoryview(content)
    pieces = (base64.b64encode(view[at : at + PIECE]) for at in range(0, len(content), PIECE))
    return JSONText(b'"%s"' % b"".join(pieces))


def _content(stored: File | ConvertedFile, *, until: float) -> bytearray | None:
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
    return content if len(content) == stored.size else None
