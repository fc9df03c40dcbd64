"""Which database Django uses in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection


def disconnect() -> None:
    """Close this process's connections, those in the pool too."""
    connection.close()
    connection.close_pool()  # type: ignore[attr-defined]  # of PostgreSQL's backend


@contextmanager
def using(name: str) -> Iterator[None]:
    """Use another database of the same server."""
    usual = connection.settings_dict["NAME"]
    try:
        disconnect()
        connection.settings_dict["NAME"] = name
        yield
    finally:
        disconnect()
        connection.settings_dict["NAME"] = usual
