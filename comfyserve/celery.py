"""The Celery application: wake-ups and work distribution. The queue itself lives in PostgreSQL."""

from __future__ import annotations

import gc
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


@signals.celeryd_init.connect
def _import_without_collecting_garbage(**_: Any) -> None:
    """Imports create many objects and little garbage: looking for it takes a fifth of the start."""
    gc.disable()


@signals.celeryd_after_setup.connect
def _collect_garbage_again(**_: Any) -> None:
    gc.freeze()  # what is loaded by now stays: looking through it would stop all threads for 0.1 s
    gc.enable()


@signals.worker_shutting_down.connect
def _stop_cleaning(**_: Any) -> None:
    """Celery waits for running tasks; a cleanup run stops after its current batch."""
    from comfyserve import cleaning  # imports Django's models, which beat does not need

    cleaning.stopping.set()
