"""Cleanup of expired account data. Called by beat; nothing depends on it."""

from __future__ import annotations

from collections.abc import Iterator

from django.conf import settings
from django.contrib.sessions.models import Session as BrowserSession
from django.db.models.functions import Now, TruncDate

from accounts.audit_models import AuditEntry
from accounts.models import ApiKey, AttemptCount, DailyUse, IdempotencyRecord, Session
from comfyserve.cleaning import Gone, ago, rows

DAYS_COUNTED = 7  # days of usage to keep; only today's is queried


def clean(*, dry_run: bool = False) -> Iterator[Gone]:
    """Deletes each row after the retention setting of its kind; 0 keeps that kind forever."""
    if days := settings.SESSION_RETENTION_DAYS:
        # They outlive their tokens: login recognises an address by them.
        sessions = Session.objects.filter(expires_at__lt=ago(days)).order_by("expires_at")
        yield from rows(sessions, what="sessions", dry_run=dry_run)
        keys = ApiKey.objects.filter(expires_at__lt=ago(days)).order_by("expires_at")
        yield from rows(keys, what="expired API keys", dry_run=dry_run)
    if hours := settings.IDEMPOTENCY_KEY_HOURS:
        answers = IdempotencyRecord.objects.filter(created_at__lt=ago(hours, unit="hours"))
        yield from rows(answers.order_by("created_at"), what="idempotency keys", dry_run=dry_run)
    if days := settings.AUDIT_DAYS:
        audit = AuditEntry.objects.filter(at__lt=ago(days)).order_by("at")
        yield from rows(audit, what="audit log rows", dry_run=dry_run)
    browsers = BrowserSession.objects.filter(expire_date__lt=Now()).order_by("expire_date")
    yield from rows(browsers, what="sessions of the console", dry_run=dry_run)
    attempts = AttemptCount.objects.filter(ends_at__lt=Now()).order_by("ends_at")
    yield from rows(attempts, what="attempt counters", dry_run=dry_run)
    days_of_use = DailyUse.objects.filter(day__lt=TruncDate(ago(DAYS_COUNTED))).order_by("id")
    yield from rows(days_of_use, what="days of usage", dry_run=dry_run)
