"""Thin Celery entry points."""

from __future__ import annotations

import logging

from celery import shared_task

from .errors import StorageUnavailable

logger = logging.getLogger(__name__)


@shared_task(name="files.tasks.clean")
def clean() -> None:
    """Called by beat; nothing depends on it."""
    from comfyserve.cleaning import run

    from . import cleaning

    try:
        run(cleaning.clean)
    except StorageUnavailable:
        logger.warning("the storage is unavailable; the next run cleans the rest")
