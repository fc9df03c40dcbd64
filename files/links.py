"""Addresses that work without a header: signed by us, and good for a while."""

from __future__ import annotations

import time
from urllib.parse import urlencode

from django.conf import settings
from django.core.signing import BadSignature, Signer

from .models import File

_signer = Signer(salt="files.download")


def download_url(file: File, *, base: str) -> str:
    """Absolute, signed, expiring. `base` is the address of this service as its user sees it."""
    # Rounded up, so that the address stays the same for a while and can be cached.
    step = max(settings.SIGNED_LINK_SECONDS // 4, 1)
    expires = (int(time.time()) // step + 1) * step + settings.SIGNED_LINK_SECONDS
    signature = _signer.signature(f"{file.id}:{expires}")
    return f"{base}/files/{file.id}?" + urlencode({"expires": expires, "signature": signature})


def is_signed(file_id: str, *, expires: str, signature: str) -> bool:
    """Whether the link was made by us and is still good."""
    try:
        _signer.unsign(f"{file_id}:{expires}:{signature}")
        return int(expires) >= time.time()
    except (BadSignature, ValueError):
        return False
