"""Checks whether all migrations are applied to our database, without the two seconds that Django takes for
it.

A stamp records the migrations, ours and those of our packages, and the resulting state of the database. If
neither has changed there is nothing to do; in any doubt Django is asked.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from script.local.paths import ROOT


def pending(*, url: str, stamp: Path) -> bool:
    """Whether the database at `url` may have unapplied migrations."""
    return not stamp.exists() or stamp.read_text() != _state(url)


def note(*, url: str, stamp: Path) -> None:
    """Record that all are applied."""
    stamp.write_text(_state(url))


def _state(url: str) -> str:
    """Changes when the migrations of the code do, or those recorded in the database."""
    files = [ROOT / "requirements.txt", *sorted(ROOT.glob("*/migrations/*.py"))]
    code = [(str(file.relative_to(ROOT)), file.read_text()) for file in files]
    return hashlib.sha256(repr((code, _applied(url))).encode()).hexdigest()


def _applied(url: str) -> list[tuple[str, str]]:
    import psycopg

    with psycopg.connect(url) as connection:
        try:
            return connection.execute("SELECT app, name FROM django_migrations ORDER BY id").fetchall()
        except psycopg.errors.UndefinedTable:
            return []
