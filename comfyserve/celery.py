"""The Celery application: wake-ups and work distribution. The queue itself lives in PostgreSQL."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, signals

from comfyserve.api import request_ids  # noqa: F401  (its signals carry the request's id)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "comfyserve.settings")
# Celery would run Django's checks, for which it imports every view and page of the console, and ignore what
# they find. `manage.py migrate` runs them before a new version starts.
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")

app = Celery("comfyserve")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@signals.worker_shutting_down.connect
def _stop_cleaning(**_: Any) -> None:
    """Celery waits for running tasks; a cleanup run stops after its current batch."""
    from comfyserve import cleaning  # imports Django's models, which beat does not need

    cleaning.stopping.set()
