"""Thumbnails: made from the stored bytes after these were recorded, so that nothing waits for them.

The first to need one makes it: the worker that stored a picture, once its execution has ended, or the request
for it. Both may do so concurrently; the row decides which one is used.
"""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from comfyserve.db import connections, rows

from . import backend, decoding, storing
from .incoming import Incoming
from .models import File

# The commit does not wait for the disk: a thumbnail whose row is lost in a crash is made again, and its bytes
# are removed by the cleanup.
_RECORD_SQL = """
UPDATE files_file SET thumbnail_key = %s
WHERE key = %s AND thumbnail_key = '' AND set_config('synchronous_commit', 'off', true) = 'off'
"""


def key_of(file: File) -> str | None:
    """Its key in the storage, made now if missing; None if it cannot have one.

    Raises StorageUnavailable, and BytesMissing if the picture is gone.
    """
    if not file.may_have_thumbnail:
        return None
    if not file.thumbnail_key:
        connections.release()
        file.thumbnail_key = _recorded(file, _make(file))
    return None if file.thumbnail_key == File.NONE else file.thumbnail_key


def _recorded(file: File, made: str) -> str:
    """The one to use: `made`, or the one another process recorded first."""
    with rows.pipelined_transaction():
        # A concurrent deletion sees its thumbnail, or we see that the file is gone.
        storing.lock([file])
        taken = rows.prepared(_RECORD_SQL, [made, file.key])
    if taken.rowcount:
        return made
    theirs = File.objects.filter(key=file.key).values_list("thumbnail_key", flat=True).first()
    storing.discard([made])
    return theirs or File.NONE


def _make(file: File) -> str:
    """Its key; File.NONE if none can be made of these bytes."""
    with Incoming() as made:
        target = made.path
        if not (_decode_in_place(file, target) or _decode_copy(file, target)):
            return File.NONE
        # Named after its source bytes, by whose index it is found, plus a unique suffix.
        place = file.key.partition("/")[2]
        key = f"{storing.THUMBNAILS}/{place}.{uuid4().hex[:8]}.webp"
        backend.put(key, target, content_type="image/webp")
        return key


def _decode_in_place(file: File, target: Path) -> bool:
    """From the storage itself, if that is a disk. A failure may be the disk's, so only a copy is proof."""
    source = backend.path_of(file.key)
    return source is not None and _decode(source, target, file)


def _decode_copy(file: File, target: Path) -> bool:
    with Incoming() as incoming:
        storing.read_into(incoming, file.key)
        return _decode(incoming.path, target, file)


def _decode(source: Path, target: Path, file: File) -> bool:
    try:
        return decoding.thumbnail(source, target, content_type=file.content_type)
    except decoding.Undecodable:
        return False
