"""The Celery application: how work is woken and spread. What is queued lives in PostgreSQL."""

from __future__ import annotations

import os

from celery import Celery

from comfyserve.api import request_ids  # noqa: F401  (its signals carry the request's id)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "comfyserve.settings")

app = Celery("comfyserve")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
