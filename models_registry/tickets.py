"""Notifies a worker of a command. Losing a ticket is harmless: workers poll every 2 s."""

from __future__ import annotations

from comfyserve import outages, tickets

LOOK_FOR_COMMANDS = "models_registry.tasks.look_for_commands"


def ticket(host: str) -> None:
    outages.redis.attempt(lambda: tickets.send(LOOK_FOR_COMMANDS, queue=f"gpu.{host}"), "ticket not sent")
