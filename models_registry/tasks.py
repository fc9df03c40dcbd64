"""Celery's entrances."""

from __future__ import annotations

from celery import shared_task

from . import keeping, tickets


@shared_task(name=tickets.LOOK_FOR_COMMANDS)
def look_for_commands() -> None:
    """There is a command for the worker of this process."""
    if keeping.current is not None:
        keeping.current.wake()
