"""Whether a database of ours has had all migrations, told without the two seconds that Django takes for it.

A stamp says after which migrations, ours and those of our packages, the database was left in which state.
If neither differs there is nothing to do; on any doubt Django is asked.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from script.local.paths import ROOT


def pending(*, url: str, stamp: Path) -> bool:
    """May there be some that the database at `url` has not had?"""
    return not stamp.exists() or stamp.read_text() != _state(url)


def note(*, url: str, stamp: Path) -> None:
    """It has just had all."""
    stamp.write_text(_state(url))


def _state(url: str) -> str:
    """Differs when the migrations of the code do, or those that the database says it has had."""
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
