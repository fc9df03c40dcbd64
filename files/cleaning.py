"""Cleanup of expired files, bytes without a row, and interrupted uploads.

Each function yields what it removes, one by one, and removes it unless `dry_run` is set; see
`comfyserve.cleaning`. All may run at any time and concurrently.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice

from django.conf import settings
from django.db.models.functions import Now
from django.utils import timezone

from comfyserve.cleaning import Gone, ago

from . import backend, pins, storing
from .models import ConvertedFile, File

BATCH = 200
# Bytes without a row may be about to get one: they are stored first, and an output waits for its transaction
# for as long as the database is unavailable.
GRACE = timedelta(hours=24)


def clean(*, dry_run: bool = False) -> Iterator[Gone]:
    """All of it. Raises StorageUnavailable; what was removed by then stays removed."""
    yield from expired(dry_run=dry_run)
    yield from converted(dry_run=dry_run)
    yield from incoming(dry_run=dry_run)
    yield from orphans(dry_run=dry_run)
    yield from unfinished(dry_run=dry_run)


def expired(*, dry_run: bool = False) -> Iterator[Gone]:
    """Expired files that no waiting or running execution needs."""
    last = ""  # pinned files are skipped, so that they do not block the scan
    while True:
        rows = File.objects.filter(expires_at__lte=Now(), id__gt=last).order_by("id")[:BATCH]
        if not (batch := list(rows)):
            return
        last = batch[-1].id
        if dry_run:
            needed = pins.in_use(file.id for file in batch)
            going = [file for file in batch if file.id not in needed]
        else:
            going = pins.delete_unused(batch)
        yield from (Gone("expired files", f"{file.id} {file.filename}", size=file.size) for file in going)


def converted(*, dry_run: bool = False) -> Iterator[Gone]:
    """Old files converted for downloads, and failed conversions. Those that a result references are kept."""
    if not (days := settings.CONVERTED_KEPT_DAYS):
        return
    old = ConvertedFile.objects.filter(created_at__lt=ago(days), outputs=None).order_by("created_at")
    while batch := list(old[:BATCH]):
        yield from (Gone("converted files", str(made), size=made.size) for made in batch)
        if dry_run:
            return
        old.filter(id__in=[made.id for made in batch]).delete()
        storing.discard(made.key for made in batch)


def orphans(*, dry_run: bool = False, grace: timedelta = GRACE) -> Iterator[Gone]:
    """Bytes in the storage without a row, old enough not to get one."""
    before = timezone.now() - grace
    for prefix in storing.PREFIXES:
        old = (stored for stored in backend.walk(prefix) if stored.modified < before)
        while batch := {stored.key: stored for stored in islice(old, BATCH)}:
            for key in sorted(set(batch) - storing.referenced(batch)):
                if not dry_run:
                    backend.delete(key)
                yield Gone("files without a row", key, size=batch[key].size)


def incoming(*, dry_run: bool = False, grace: timedelta = GRACE) -> Iterator[Gone]:
    """Incoming files left on this machine by a killed process."""
    before = time.time() - grace.total_seconds()
    folder = settings.INCOMING_DIR
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            found = path.stat()
            if found.st_mtime >= before or not path.is_file():
                continue
            if not dry_run:
                path.unlink()
        except FileNotFoundError:
            continue  # its process has exited in the meantime
        yield Gone("interrupted uploads", path.name, size=found.st_size)


def unfinished(*, dry_run: bool = False, grace: timedelta = GRACE) -> Iterator[Gone]:
    """Multipart uploads to S3 that never completed; their parts use storage and are not listed."""
    for key, upload_id in list(backend.unfinished(timezone.now() - grace)):
        if not dry_run:
            backend.abort(key, upload_id)
        yield Gone("unfinished multipart uploads", key)
