"""What one fault is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

Undo = Callable[[], None]
Seconds = tuple[float, float]

BRIEF, LONG = (0.0, 1.0), (5.0, 25.0)


class CannotBegin(Exception):
    """The state that the fault needs did not come about; nothing has happened."""


@dataclass(frozen=True)
class Fault:
    """`begin` does it and returns what ends it; in between lie `seconds`, drawn from one of the ranges.

    `begin` runs in the main thread and may wait a few seconds for the state that it needs.
    """

    kind: str
    targets: tuple[str, ...]  # parts and lines; nothing else happens to them meanwhile
    begin: Callable[[], Undo]
    seconds: tuple[Seconds, ...]


def nothing() -> None:
    pass


def wait_in(url: str, query: str, *parameters: Any, seconds: float = 4.0) -> tuple[Any, ...]:
    """Ask that database again and again until there is a row, and return it. CannotBegin after `seconds`."""
    end = time.monotonic() + seconds
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=3) as connection:
            while time.monotonic() < end:
                row = connection.execute(query, parameters).fetchone()
                if row is not None:
                    return tuple(row)
                time.sleep(0.01)
    except psycopg.Error as exc:
        raise CannotBegin(str(exc)) from exc
    raise CannotBegin("the database did not come to that state")
