from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db import connections
from django.db.models.signals import post_migrate, pre_migrate

from comfyserve.db import sessions

MIGRATION_LOCK_SECONDS = 60


class DatabaseConfig(AppConfig):
    name = "comfyserve.db"
    label = "comfyserve_db"

    def ready(self) -> None:
        pre_migrate.connect(_lift_timeouts, dispatch_uid="lift_timeouts")
        post_migrate.connect(_restore_timeouts, dispatch_uid="restore_timeouts")


def _lift_timeouts(*, using: str, **_: Any) -> None:
    """Building an index on a large table takes longer than our statement timeout. Lock waits stay bounded."""
    with connections[using].cursor() as cursor:
        connections[using].connection.answer_seconds = None
        cursor.execute("SET statement_timeout TO 0")
        cursor.execute(f"SET lock_timeout TO '{MIGRATION_LOCK_SECONDS}s'")


def _restore_timeouts(*, using: str, **_: Any) -> None:
    with connections[using].cursor() as cursor:
        cursor.execute("RESET statement_timeout")
        cursor.execute("RESET lock_timeout")
    sessions.await_first_answer(connections[using].connection)
