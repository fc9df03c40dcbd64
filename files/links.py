"""URLs that need no Authorization header, and expire: presigned by S3, or signed by us."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from django.conf import settings
from django.utils import timezone

from comfyserve.api.signed_links import SignedLinks

from . import backend, types
from .models import File

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


def valid_until() -> datetime:
    """Until when an address that is made now works at least."""
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
    # Rounded up, so that the URL stays the same for a while and can be cached.
    step = max(settings.SIGNED_LINK_SECONDS // 4, 1)
    expires = (int(time.time()) // step + 1) * step + settings.SIGNED_LINK_SECONDS
    return f"{base}/files/{subject}?{_links.query(subject, expires=expires)}"


def is_signed(subject: str, *, expires: str, signature: str) -> bool:
    """Whether we signed the link and it has not expired. `subject` is the path below /files/."""
    return _links.good(subject, expires=expires, signature=signature)
