"""Rows that nobody needs any more. Beat calls it; nothing depends on its being called."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from accounts import audit
from accounts.idempotency import KEPT
from accounts.models import AttemptCount, DailyUse, IdempotencyRecord, Session

# Ended and expired sessions stay for a while: login knows an address by them.
SESSIONS_KEPT = timedelta(days=90)
DAYS_KEPT = timedelta(days=7)


def sweep() -> None:
    now = timezone.now()
    Session.objects.filter(expires_at__lt=now - SESSIONS_KEPT).delete()
    AttemptCount.objects.filter(ends_at__lt=now).delete()
    IdempotencyRecord.objects.filter(created_at__lt=now - KEPT).delete()
    DailyUse.objects.filter(day__lt=(now - DAYS_KEPT).date()).delete()
    audit.forget_old()
