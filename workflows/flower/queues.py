"""The queues by name, with their lengths."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from comfyserve.db import connections
from workflows.models import Delivery
from workflows.presentation import selectors


def deliveries_waiting() -> int:
    return Delivery.objects.filter(state=Delivery.State.WAITING).count()


# Counted in PostgreSQL: in the broker these queues only carry the messages that wake workers.
COUNTED = {"gpu": selectors.waiting_count, "webhooks": deliveries_waiting}
NAMES = ("default", "gpu", "models", "webhooks")


class Queues:
    """Replaces one of Flower's brokers."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """[{"name", "messages"}] of each, where "messages" is the length."""
        names = list(names)
        in_broker = await self._broker.queues([name for name in names if name not in COUNTED])
        counted = await asyncio.get_running_loop().run_in_executor(None, _count)
        lengths = {queue["name"]: queue["messages"] for queue in in_broker} | counted
        return [{"name": name, "messages": lengths[name]} for name in names if name in lengths]


def _count() -> dict[str, int]:
    with connections.step():
        return {name: count() for name, count in COUNTED.items()}
