"""Rows about users that nobody needs any more. Beat calls it; nothing depends on its being called."""

from __future__ import annotations

from collections.abc import Iterator

from django.conf import settings
from django.contrib.sessions.models import Session as BrowserSession
from django.db.models.functions import Now, TruncDate

from accounts.audit_models import AuditEntry
from accounts.models import ApiKey, AttemptCount, DailyUse, IdempotencyRecord, Session
from comfyserve.cleaning import Gone, ago, rows

DAYS_COUNTED = 7  # days of use that are kept; only today's is asked for


def clean(*, dry_run: bool = False) -> Iterator[Gone]:
    """Each row after the time that the settings give its kind; 0 keeps that kind for ever."""
    if days := settings.SESSION_RETENTION_DAYS:
        # They outlive their tokens: login knows an address by them.
        sessions = Session.objects.filter(expires_at__lt=ago(days)).order_by("expires_at")
        yield from rows(sessions, what="sessions", dry_run=dry_run)
        keys = ApiKey.objects.filter(expires_at__lt=ago(days)).order_by("expires_at")
        yield from rows(keys, what="expired API keys", dry_run=dry_run)
    if hours := settings.IDEMPOTENCY_KEY_HOURS:
        answers = IdempotencyRecord.objects.filter(created_at__lt=ago(hours, unit="hours"))
        yield from rows(answers.order_by("created_at"), what="idempotency keys", dry_run=dry_run)
    if days := settings.AUDIT_DAYS:
        audit = AuditEntry.objects.filter(at__lt=ago(days)).order_by("at")
        yield from rows(audit, what="rows of who did what", dry_run=dry_run)
    browsers = BrowserSession.objects.filter(expire_date__lt=Now()).order_by("expire_date")
    yield from rows(browsers, what="sessions of the console", dry_run=dry_run)
    attempts = AttemptCount.objects.filter(ends_at__lt=Now()).order_by("ends_at")
    yield from rows(attempts, what="counts of attempts", dry_run=dry_run)
    days_of_use = DailyUse.objects.filter(day__lt=TruncDate(ago(DAYS_COUNTED))).order_by("id")
    yield from rows(days_of_use, what="days of use", dry_run=dry_run)
