from __future__ import annotations

from django.apps import AppConfig


class HealthConfig(AppConfig):
    name = "health"

    def ready(self) -> None:
        from health import celery_beats  # noqa: F401  (its signals)
