"""Whether this process may receive requests: the database responds, migrations are applied, and it is not
shutting down."""

from __future__ import annotations

import logging
from functools import lru_cache

import psycopg
from django.db.migrations.loader import MigrationLoader

from . import checks, shutdown
from .probing import NoAnswer, Probe, Shared

logger = logging.getLogger(__name__)

LIMIT_SECONDS = 1.5
UNAVAILABLE = "Database not available"
MIGRATIONS = "Migrations are missing; run manage.py migrate"
STOPPING = "Shutting down"


@lru_cache(maxsize=1)
def _wanted() -> frozenset[tuple[str, str]]:
    """(app, name) of every migration in the code."""
    return frozenset(MigrationLoader(None).disk_migrations)


class Readiness:
    def __init__(self) -> None:
        self._database = checks.Database()
        self._migrated = False
        self._probe = Probe("readiness", self._check, limit=LIMIT_SECONDS)

    def reason(self) -> str | None:
        """Why it is not ready; None if it is."""
        try:
            return self._probe.ask()
        except (NoAnswer, psycopg.Error) as exc:
            logger.warning("not ready: %s", exc)
            return UNAVAILABLE

    def _check(self) -> str | None:
        if self._migrated:
            self._database.fetch("SELECT 1")
            return None
        if _wanted() - self._applied():
            return MIGRATIONS
        self._migrated = True  # migrations are never reversed under a running service
        return None

    def _applied(self) -> set[tuple[str, str]]:
        [(there,)] = self._database.fetch("SELECT to_regclass('django_migrations') IS NOT NULL")
        if not there:
            return set()
        return {(app, name) for app, name in self._database.fetch("SELECT app, name FROM django_migrations")}


_shared = Shared(Readiness().reason)


def why_not() -> str | None:
    """Why this process should receive no requests; None if it may."""
    return STOPPING if shutdown.begun() else _shared.get()
