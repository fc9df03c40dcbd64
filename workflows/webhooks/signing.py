"""A user's webhook signing secrets: created on first use, rotated with an overlap."""

from __future__ import annotations

import base64
import secrets
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from standardwebhooks import Webhook as Signer

from accounts import audit
from workflows.models import WebhookSecret

MAX_SIGNING_SECRETS = 5  # secrets valid at once, however often the secret is rotated


def _new() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def valid(*, user_id: int) -> list[WebhookSecret]:
    """All valid secrets, the current one first. Creates the first one."""
    found = list(_valid(user_id))
    if any(each.expires_at is None for each in found):
        return found
    try:
        with transaction.atomic():
            WebhookSecret.objects.create(user_id=user_id, secret=_new())
    except IntegrityError:
        pass  # created concurrently
    return list(_valid(user_id))


def _valid(user_id: int) -> QuerySet[WebhookSecret]:
    rows = WebhookSecret.objects.filter(Q(expires_at=None) | Q(expires_at__gt=Now()), user_id=user_id)
    return rows.order_by("-id")[:MAX_SIGNING_SECRETS]


def rotate(*, user_id: int, overlap: timedelta | None = None) -> list[WebhookSecret]:
    """Create a new secret; the old one stays valid for `overlap` (settings), so that receivers can switch."""
    if overlap is None:
        overlap = timedelta(hours=settings.WEBHOOK_SECRET_OVERLAP_HOURS)
    valid(user_id=user_id)
    with transaction.atomic():
        rows = WebhookSecret.objects.filter(user_id=user_id)
        # Locked, to serialise concurrent rotations.
        present = rows.select_for_update().get(expires_at=None)
        rows.filter(id=present.id).update(expires_at=Now() + overlap)
        rows.filter(expires_at__lt=Now()).delete()
        made = WebhookSecret.objects.create(user_id=user_id, secret=_new())
        hours = overlap.total_seconds() / 3600
        audit.record("webhook_secret.rotate", on=made, note=f"the old one signs for {hours:g} hours more")
    return valid(user_id=user_id)


def signatures(message_id: str, *, body: bytes, timestamp: float, user_id: int) -> str:
    """The `webhook-signature` header: one signature for each valid secret."""
    at = datetime.fromtimestamp(int(timestamp), tz=UTC)
    return " ".join(
        Signer(each.secret).sign(msg_id=message_id, timestamp=at, data=body.decode())
        for each in valid(user_id=user_id)
    )
