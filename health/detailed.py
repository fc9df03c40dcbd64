"""`/health/detailed`: all dependencies at once, never in more than LIMIT_SECONDS."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from comfyserve.db import connections

from . import checks, comfyui_checks, system
from .celery_beats import QUEUES
from .checks import Condition, Service
from .probing import NoAnswer, Probe, Shared

logger = logging.getLogger(__name__)

LIMIT_SECONDS = 1.5  # of the slowest check; the response is due in 2 s


@dataclass(frozen=True)
class Report:
    status: Condition
    services: list[Service]
    system: dict[str, float | None]


class Check:
    """A check with its limit, and the entries reported if it fails."""

    def __init__(self, *names: str, look: Callable[[], list[Service]], limit: float) -> None:
        self.names = names
        self.probe = Probe(names[0], look, limit=limit)
        self._noted: str | None = None

    def services(self, begun: Future[list[Service]], since: float) -> list[Service]:
        try:
            found = self.probe.ask(begun=begun, since=since)
        except Exception as exc:  # noqa: BLE001  (whatever a check raises, its service is unhealthy)
            return self._failed(exc)
        self._noted = None
        return found

    def _failed(self, exc: Exception) -> list[Service]:
        said = str(exc) if isinstance(exc, NoAnswer) else checks.explain(exc)
        if said != self._noted:  # logged once, not every second
            logger.warning("%s is unhealthy: %s", self.probe.name, exc)
            self._noted = said
        return [Service(name, "unhealthy", None, said) for name in self.names]


class Detailed:
    def __init__(self) -> None:
        self._checks = [
            Check("database", look=checks.Database(), limit=LIMIT_SECONDS),
            Check("redis", look=checks.Redis(), limit=1.0),
            Check("comfyui", look=comfyui_checks.check, limit=LIMIT_SECONDS),
            Check("storage", look=checks.storage, limit=LIMIT_SECONDS),
            Check(*(f"celery:{queue}" for queue in QUEUES), look=checks.celery, limit=1.0),
        ]
        self._gpus: Probe[list[dict[str, Any]]] = Probe("gpus", _gpus, limit=LIMIT_SECONDS)

    def look(self) -> Report:
        since = time.monotonic()
        begun = [(check, check.probe.begin()) for check in self._checks]
        gpus = self._gpus.begin()
        services = [
            service for check, future in begun for service in check.services(future, since)
        ]  # fmt: skip
        try:
            devices = self._gpus.ask(begun=gpus, since=since)
        except Exception:  # noqa: BLE001  (the database is unavailable: their state is unknown)
            devices = []
        figures = {**system.host_figures(), "gpu_usage_percent": system.gpu_usage(devices)}
        return Report(overall(services), services, figures)


def _gpus() -> list[dict[str, Any]]:
    with connections.step():
        return comfyui_checks.devices()


def overall(services: list[Service]) -> Condition:
    """Unhealthy without the database; degraded while anything else is unhealthy: the rest can still serve."""
    by_name = {service.name: service.status for service in services}
    if by_name["database"] == "unhealthy":
        return "unhealthy"
    return "healthy" if set(by_name.values()) == {"healthy"} else "degraded"


detailed = Shared(Detailed().look)
