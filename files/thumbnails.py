"""Thumbnails: made of the stored bytes after these were recorded, so that nobody waits for them.

Whoever needs one first makes it: the worker that stored a picture, once its execution has ended, or the
request that asks for it. Two may do so at once; the row decides whose counts.
"""

from __future__ import annotations

from uuid import uuid4

from django.db import transaction

from comfyserve.db import connections

from . import backend, pictures, storing
from .incoming import Incoming
from .models import File

PIECE = 256 * 1024  # bytes read at once


def key_of(file: File) -> str | None:
    """Its key in the storage, made now if it is not there yet; None where it can have none.

    Raises StorageUnavailable, and BytesMissing where the picture is gone.
    """
    if not file.may_have_thumbnail:
        return None
    if not file.thumbnail_key:
        connections.release()
        file.thumbnail_key = _recorded(file, _make(file))
    return None if file.thumbnail_key == File.NONE else file.thumbnail_key


def _recorded(file: File, made: str) -> str:
    """What counts: `made`, or what somebody else had made by then."""
    with transaction.atomic():
        storing.lock([file])  # whoever deletes the file sees its thumbnail, or we see that it is gone
        rows = File.objects.filter(key=file.key)
        if rows.filter(thumbnail_key="").update(thumbnail_key=made):
            return made
        theirs = rows.values_list("thumbnail_key", flat=True).first()
    storing.discard([made])
    return theirs or File.NONE


def _make(file: File) -> str:
    """Its key; File.NONE where none can be made of these bytes."""
    with Incoming() as incoming:
        with storing.opened(file) as reader:
            while piece := reader.read(PIECE):
                incoming.write(piece)
        target = incoming.path.with_name(f"{incoming.path.name}.webp")
        try:
            if not pictures.thumbnail(incoming.path, target, content_type=file.content_type):
                return File.NONE
            # Called as the bytes that it is made of, by whose index it is found, and by a name of its own.
            place = file.key.partition("/")[2]
            key = f"{storing.THUMBNAILS}/{place}.{uuid4().hex[:8]}.webp"
            backend.put(key, target, content_type="image/webp")
            return key
        finally:
            target.unlink(missing_ok=True)
