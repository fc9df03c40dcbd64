"""Thin Celery entry points."""

from __future__ import annotations

import logging

from celery import shared_task

from .errors import StorageUnavailable

logger = logging.getLogger(__name__)


@shared_task(name="files.tasks.clean")
def clean() -> None:
    """Beat calls it; nothing depends on its being called."""
    from comfyserve.cleaning import run

    from . import cleaning

    try:
        run(cleaning.clean)
    except StorageUnavailable:
        logger.warning("the storage is away; the rest is cleaned another time")
