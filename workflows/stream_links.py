"""Signed addresses of live streams, for browsers: their EventSource sends no headers."""

from __future__ import annotations

import time
from urllib.parse import urlencode
from uuid import UUID

from django.conf import settings
from django.core.signing import BadSignature, Signer

_signer = Signer(salt="workflows.events")


def events_url(execution_id: UUID, *, base: str) -> str:
    """Good for EVENTS_LINK_SECONDS, for this execution's stream alone."""
    expires = int(time.time()) + settings.EVENTS_LINK_SECONDS
    signature = _signer.signature(f"{execution_id}:{expires}")
    query = urlencode({"expires": expires, "signature": signature})
    return f"{base}/workflows/{execution_id}/events?{query}"


def is_signed(execution_id: str, *, expires: str, signature: str) -> bool:
    try:
        _signer.unsign(f"{execution_id}:{expires}:{signature}")
        return int(expires) >= time.time()
    except (BadSignature, ValueError):
        return False
