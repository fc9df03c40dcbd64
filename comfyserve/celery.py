"""The Celery application: wake-ups and work distribution. The queue itself lives in PostgreSQL."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, signals

from comfyserve import cleaning
from comfyserve.api import request_ids  # noqa: F401  (its signals carry the request's id)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "comfyserve.settings")

app = Celery("comfyserve")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@signals.worker_shutting_down.connect
def _stop_cleaning(**_: Any) -> None:
    """Celery waits for running tasks; a cleanup run stops after its current batch."""
    cleaning.stopping.set()
