"""URLs that need no Authorization header, and expire: presigned by S3, or signed by us."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from urllib.parse import urlencode

from django.conf import settings
from django.utils import timezone

from comfyserve.api.signed_links import SignedLinks

from . import backend, types
from .conversion import ConversionOptions
from .models import ConvertedFile, File

PARAMETERS = {"expires", "signature"}  # of a link to a file as it is stored
_links = SignedLinks(salt="files.download")


def download_url(file: File, *, base: str) -> str:
    """Absolute. `base` is the public base URL of this service."""
    presigned = backend.link(
        file.key,
        filename=file.filename,
        content_type=file.content_type,
        attachment=not types.is_shown(file.content_type),
    )
    return presigned or _signed(file.id, base=base)


def converted_url(file: File, made: ConvertedFile, *, filename: str, base: str) -> str:
    """The same for its converted bytes."""
    presigned = backend.link(
        made.key,
        filename=filename,
        content_type=made.content_type,
        attachment=not types.is_shown(made.content_type),
    )
    return presigned or _signed_converted(file.id, ConversionOptions.parse(made.parameters), base=base)


def _signed_converted(file_id: str, wanted: ConversionOptions, *, base: str) -> str:
    """The signature covers the conversion: the bearer of the link cannot get the metadata back."""
    expires = _expires()
    query = _links.query(converted_subject(file_id, wanted), expires=expires)
    return f"{base}/files/{file_id}?{urlencode(wanted.query)}&{query}"


def converted_subject(file_id: str, wanted: ConversionOptions) -> str:
    return f"{file_id}?{wanted.parameters}"


def valid_until() -> datetime:
    """The time until which a link created now is valid at least."""
    return timezone.now() + timedelta(seconds=settings.SIGNED_LINK_SECONDS)


def thumbnail_url(file: File, *, base: str) -> str | None:
    """The same for its thumbnail; None if it has none."""
    if not file.may_have_thumbnail:
        return None
    presigned = file.thumbnail_key and backend.link(
        file.thumbnail_key, filename="thumbnail.webp", content_type="image/webp", attachment=False
    )
    return presigned or _signed(f"{file.id}/thumbnail", base=base)


def _signed(subject: str, *, base: str) -> str:
    return f"{base}/files/{subject}?{_links.query(subject, expires=_expires())}"


def _expires() -> int:
    """Rounded up, so that the URL stays the same for a while and can be cached."""
    seconds = int(settings.SIGNED_LINK_SECONDS)
    step = max(seconds // 4, 1)
    return (int(time.time()) // step + 1) * step + seconds


def is_signed(subject: str, *, expires: str, signature: str) -> bool:
    """Whether we signed the link and it has not expired. `subject` is the path below /files/."""
    return _links.is_valid(subject, expires=expires, signature=signature)
