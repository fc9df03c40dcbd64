"""Signed URLs of live streams, for browsers, whose EventSource cannot send headers."""

from __future__ import annotations

import time
from uuid import UUID

from django.conf import settings

from comfyserve.api.signed_links import SignedLinks

_links = SignedLinks(salt="workflows.events")


def events_url(execution_id: UUID, *, base: str) -> str:
    """Valid for EVENTS_LINK_SECONDS, for this execution's stream only."""
    expires = int(time.time()) + settings.EVENTS_LINK_SECONDS
    return f"{base}/workflows/{execution_id}/events?{_links.query(str(execution_id), expires=expires)}"


def is_signed(execution_id: str, *, expires: str, signature: str) -> bool:
    return _links.is_valid(execution_id, expires=expires, signature=signature)
