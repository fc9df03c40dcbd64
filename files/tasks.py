"""Thin Celery entry points."""

from __future__ import annotations

import logging

from celery import shared_task

from .errors import StorageAway

logger = logging.getLogger(__name__)


@shared_task(name="files.tasks.clean")
def clean() -> None:
    """Beat calls it; nothing depends on its being called."""
    from . import cleaning

    count = size = 0
    try:
        for gone in cleaning.clean():
            count, size = count + 1, size + (gone.size or 0)
    except StorageAway:
        logger.warning("the storage is away; the rest is cleaned another time")
    if count:
        logger.info("cleaned %d files, %d bytes", count, size, extra={"action": "files_cleaned"})
