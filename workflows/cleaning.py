"""Deletes old executions and related rows, by the retention settings. Called by beat every ten minutes.

Figures for `/metrics/` are counted when things happen, and the order of the queue remembers what it needs
(`scheduling.remember`): neither changes when rows leave.
"""

from __future__ import annotations

from collections.abc import Iterator

from django.conf import settings
from django.db.models import Count, Exists, OuterRef, Q, Sum
from django.db.models.functions import Now

from comfyserve.cleaning import Gone, ago, oldest_rows, rows

from .models import Batch, Delivery, Execution, LogLine, ObjectInfo, WebhookSecret, Worker
from .queue import deletion

BATCH = 100  # executions, each with dozens of rows


def clean(*, dry_run: bool = False) -> Iterator[Gone]:
    """Delete each kind of row after its retention time; 0 keeps it forever."""
    if days := settings.EXECUTION_RETENTION_DAYS:
        yield from _executions(days, dry_run=dry_run)
        empty = ~Exists(Execution.objects.filter(batch=OuterRef("pk")))
        whole = Batch.objects.filter(empty, completed_at__lt=ago(days)).order_by("completed_at")
        yield from rows(whole, what="batches", dry_run=dry_run)
    ended = Q(execution__completed_at__isnull=False)
    if days := settings.LOG_RETENTION_DAYS:
        old = Q(timestamp__lt=ago(days))
        yield from oldest_rows(LogLine, old=old, done=ended, what="log lines", dry_run=dry_run)
    if days := settings.WEBHOOK_RETENTION_DAYS:
        old, done = Q(created_at__lt=ago(days)), ended & ~Q(state=Delivery.State.WAITING)
        yield from oldest_rows(Delivery, old=old, done=done, what="webhook deliveries", dry_run=dry_run)
    secrets = WebhookSecret.objects.filter(expires_at__lt=Now()).order_by("id")
    yield from rows(secrets, what="replaced webhook secrets", dry_run=dry_run)
    if days := settings.WORKER_RETENTION_DAYS:
        yield from _workers(days, dry_run=dry_run)


def _executions(days: float, *, dry_run: bool) -> Iterator[Gone]:
    old = deletion.removable().filter(completed_at__lt=ago(days))
    if dry_run:
        found = old.aggregate(count=Count("id"))["count"]
        files = old.aggregate(count=Count("outputs__file"), size=Sum("outputs__file__size"))
        yield Gone("executions", count=found)
        yield Gone("files of executions", count=files["count"], size=files["size"])
        return
    since = None
    while True:
        # Continue where the last batch ended: the index entries before it are dead until the next vacuum.
        rest = old if since is None else old.filter(completed_at__gte=since)
        batch = list(rest.order_by("completed_at").values_list("id", "completed_at")[:BATCH])
        gone = deletion.remove(old.filter(id__in=[id_ for id_, _ in batch]), skip_locked=True)
        if not gone:  # nothing is old, or another process is deleting it
            return
        since = batch[-1][1]
        yield Gone("executions", count=len(gone))


def _workers(days: float, *, dry_run: bool) -> Iterator[Gone]:
    """Workers silent for that long, except paused ones, which must still be paused when they return."""
    silent = Worker.objects.filter(heartbeat_at__lt=ago(days), desired_state=Worker.DesiredState.WORK)
    yield from rows(silent.order_by("name"), what="silent workers", dry_run=dry_run)
    used = Exists(Worker.objects.filter(object_info=OuterRef("pk")))
    unused = ObjectInfo.objects.filter(~used, created_at__lt=ago(days)).order_by("digest")
    yield from rows(unused, what="node definitions", dry_run=dry_run)
