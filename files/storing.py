"""Bytes into the storage and out of it. What is stored gets a row; what has no row is an orphan."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from datetime import timedelta
from typing import IO
from uuid import uuid4

import filetype
from django.conf import settings
from django.core.files import File as DjangoFile
from django.core.files.storage import default_storage
from django.utils import timezone
from PIL import Image, UnidentifiedImageError

from .models import File

IN_MEMORY = 1024 * 1024  # bytes; more goes to a temporary file on disk


def store(*, user_id: int, kind: str, filename: str, chunks: Iterable[bytes]) -> File:
    """Put the bytes into the storage and make their row, not saved yet: the caller decides when it shows.

    The key is new each time, so that a writer that lost its claim overwrites nothing.
    """
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as spool:
        digest, size = hashlib.sha256(), 0
        for chunk in chunks:
            spool.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        spool.seek(0)
        width, height = _size_of_picture(spool)
        content_type = _type_of(spool)
        spool.seek(0)
        name = uuid4().hex
        key = default_storage.save(f"{kind}s/{name[:2]}/{name}", DjangoFile(spool, name=name))
    return File(
        user_id=user_id,
        kind=kind,
        filename=filename[:255],
        content_type=content_type,
        size=size,
        sha256=digest.hexdigest(),
        key=key,
        width=width,
        height=height,
        expires_at=timezone.now() + timedelta(days=settings.FILE_EXPIRY_DAYS),
    )


def _size_of_picture(stream: IO[bytes]) -> tuple[int | None, int | None]:
    """From the header alone: a hostile picture may claim a billion pixels."""
    try:
        with Image.open(stream) as picture:
            return picture.width, picture.height
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return None, None


def _type_of(stream: IO[bytes]) -> str:
    stream.seek(0)
    found = filetype.guess(stream.read(8192))
    return str(found.mime) if found else "application/octet-stream"


def delete(file: File) -> None:
    """The row and its bytes. The bytes go last: without a row they are an orphan that the sweep finds."""
    key = file.key
    file.delete()
    default_storage.delete(key)


def drop(file: File) -> None:
    """The bytes of a file whose row was never saved."""
    default_storage.delete(file.key)


def open_file(file: File) -> DjangoFile[bytes]:
    return default_storage.open(file.key, "rb")
