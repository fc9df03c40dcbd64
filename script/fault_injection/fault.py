"""A single fault."""

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
    """The state that the fault needs was not reached; nothing was changed."""


@dataclass(frozen=True)
class Fault:
    """`begin` starts the fault and returns a function that ends it, called after `seconds`, drawn from one of
    the ranges.

    `begin` runs in the main thread and may wait a few seconds for the required state.
    """

    kind: str
    targets: tuple[str, ...]  # parts and links; no other fault affects them meanwhile
    begin: Callable[[], Undo]
    seconds: tuple[Seconds, ...]


def nothing() -> None:
    pass


def wait_in(url: str, query: str, *parameters: Any, seconds: float = 4.0) -> tuple[Any, ...]:
    """Repeat the query until it returns a row, and return it. Raises CannotBegin after `seconds`."""
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
    raise CannotBegin("the database did not reach that state")
