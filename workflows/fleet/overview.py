"""The workers' rows as shown to operators: which are silent, and what each GPU does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings
from django.db.models import DurationField, ExpressionWrapper, F, Q
from django.db.models.functions import Now

from models_registry.models import Host, ModelFile
from workflows.models import Worker

from .registry import BEATS

LEFT_SECONDS = 24 * 3600 - 60  # silent for this long: it was shut down cleanly, or is not expected back
# The age of a worker's heartbeat by the database clock.
AGE = ExpressionWrapper(Now() - F("heartbeat_at"), output_field=DurationField())


@dataclass(frozen=True)
class Row:
    worker: Worker
    silent_seconds: float

    @property
    def name(self) -> str:
        return self.worker.name

    @property
    def silent(self) -> bool:
        return self.silent_seconds > float(settings.RENEW_SECONDS * BEATS)

    @property
    def status(self) -> str:
        """One word for the table: `stopped`, `silent`, `unreachable`, or the worker's state."""
        if has_left(self):
            return "stopped"
        if self.silent:
            return "silent"
        if not self.worker.reachable:
            return "unreachable"
        return str(self.worker.state)


def rows() -> list[Row]:
    """All workers by name, with the age of their heartbeat by the database clock; one query."""
    return [row(worker) for worker in Worker.objects.annotate(age=AGE).order_by("name")]


def row(worker: Any) -> Row:
    """The row of a worker that was read with AGE as `age`."""
    return Row(worker, max(0.0, worker.age.total_seconds()))


def row_of(name: str) -> Row:
    """The row of one worker. Raises Worker.DoesNotExist."""
    return row(Worker.objects.annotate(age=AGE).get(name=name))


def has_left(row: Row) -> bool:
    return row.silent_seconds > LEFT_SECONDS


def gpus(workers: Iterable[Worker]) -> list[dict[str, Any]]:
    """The GPUs that these workers report; a GPU reported by several counts once."""
    found: dict[str, dict[str, Any]] = {}
    for worker in workers:
        for gpu in worker.gpus:
            found.setdefault(gpu["uuid"] or f"{worker.host}:{gpu['index']}", {**gpu, "host": worker.host})
    return list(found.values())


def models_loaded() -> dict[str, list[str]]:
    """By worker: the models loaded in its ComfyUI. Workers whose ComfyUI does not report them are omitted."""
    tell = Host.objects.filter(bridge=True).values_list("name", flat=True)
    found: dict[str, list[str]] = {name: [] for name in tell}
    in_memory = ModelFile.objects.filter(Q(loaded_bytes__gt=0) | Q(ram_bytes__gt=0))
    for host, name in in_memory.order_by("model__name").values_list("host_id", "model__name"):
        found.setdefault(host, []).append(name)
    return found


def without_password(url: str) -> str:
    """A ComfyUI's URL without credentials, for display."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
