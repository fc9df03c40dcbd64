"""The checks of `manage.py doctor`: each finding says whether something is right, and how to fix it if not.

The parts are checked one after the other, independently: one that fails is reported and the others continue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from . import comfyui, host, stores
from .findings import Finding, Verdict, bad

Look = Callable[[], Iterator[Finding]]

# Checks that need no servers, then those that do.
BEFORE_START: tuple[Look, ...] = (host.settings_make_sense, host.disk, host.gpus)
PARTS: tuple[Look, ...] = (
    *BEFORE_START, stores.database, stores.migrations, stores.clock, stores.redis, stores.celery,
    stores.storage, comfyui.workers, comfyui.direct,
)  # fmt: skip


def examine(*, before_start: bool = False) -> Iterator[Finding]:
    """The findings, as they are made."""
    for look in BEFORE_START if before_start else PARTS:
        try:
            yield from look()
        except Exception as exc:  # noqa: BLE001  (a part that breaks is a finding)
            subject = look.__name__.replace("_", " ")
            yield bad(subject, f"could not be checked: {exc}", "See the log; report it if it is a bug")


__all__ = ["Finding", "Verdict", "examine"]
