"""Thin Celery entry points."""

from __future__ import annotations

from celery import shared_task

from . import model_agent, tickets


@shared_task(name=tickets.LOOK_FOR_COMMANDS)
def look_for_commands() -> None:
    """There is a command for the worker of this process."""
    if model_agent.current is not None:
        model_agent.current.wake()
