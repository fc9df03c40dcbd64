"""Registry queries: which models exist, where, and in which memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q
from django.db.models.functions import Now

from comfyserve.api.errors import Detail, NotFound, Unavailable, ValidationFailed

from . import kinds
from .models import Download, Host, Model, ModelFile

LIVE_SECONDS = 30  # a host without a report for this long is considered gone
ACTIVE = (Download.State.WAITING, Download.State.RUNNING)


def live_hosts() -> list[Host]:
    """Hosts whose worker is alive and reaches its ComfyUI. One query."""
    return list(Host.objects.filter(reported_at__gt=Now() - timedelta(seconds=LIVE_SECONDS)).order_by("name"))


def chosen_hosts(worker: str | None) -> list[Host]:
    """The live hosts, or the chosen one. Empty only if none was chosen.

    ValidationFailed for an unknown worker, Unavailable for one that does not respond now.
    """
    hosts = live_hosts()
    if worker is None:
        return hosts
    found = [host for host in hosts if host.name == worker]
    if not found and not Host.objects.filter(name=worker).exists():
        raise ValidationFailed.of("worker", f"There is no worker {worker[:100]}")
    if not found:
        raise Unavailable(f"Worker {worker[:100]} cannot reach its ComfyUI at the moment", retry_after=10)
    return found


def some_hosts(worker: str | None) -> list[Host]:
    """As `chosen_hosts`, but Unavailable if there is none."""
    hosts = chosen_hosts(worker)
    if not hosts:
        raise Unavailable("No GPU worker with a responding ComfyUI is running", retry_after=10)
    return hosts


@dataclass
class Entry:
    """A model with its state on all hosts."""

    name: str
    type: str
    last_used: datetime | None
    description: str = ""
    files: list[dict[str, Any]] = field(default_factory=list)  # of live hosts first
    downloads: list[Download] = field(default_factory=list)  # the active ones
    is_available: bool = False

    @property
    def loaded_bytes(self) -> int:
        return sum(file["loaded_bytes"] for file in self.files if file["live"])

    @property
    def download_progress(self) -> float | None:
        """0 to 1, of the slowest; None if none is active or the size is unknown."""
        return min((progress_of(download) for download in self.downloads), default=None)


def progress_of(download: Download) -> float:
    if not download.bytes_total:
        return 0.0
    return round(min(1.0, download.bytes_done / download.bytes_total), 4)


@dataclass(frozen=True)
class Listing:
    entries: list[Entry]
    hosts: list[Host]  # of live hosts


COLUMNS = ("host_id", "folder", "path", "size", "changed", "sha256", "loaded_bytes", "ram_bytes")


def listing(*, model_type: str | None = None, available_only: bool = False) -> Listing:
    """Every model of that type, by type and name. Three queries."""
    hosts = live_hosts()  # 1
    if model_type is not None:
        model_type = kinds.checked(model_type, more=(folder for host in hosts for folder in host.places))
    chosen = Q(model__type=model_type) if model_type else Q()
    entries = _entries(chosen, hosts, COLUMNS)  # 2 and 3
    found = sorted(entries.values(), key=lambda entry: (entry.type, entry.name))
    return Listing([entry for entry in found if entry.is_available or not available_only], hosts)


def _entries(chosen: Q, hosts: list[Host], columns: tuple[str, ...]) -> dict[int, Entry]:
    live = {host.name for host in hosts}
    about = ("model_id", "model__name", "model__type", "model__last_used", "model__description")
    entries: dict[int, Entry] = {}
    for row in ModelFile.objects.filter(chosen).order_by("host_id").values(*about, *columns):
        id_, name, type_, last_used, description = (row.pop(key) for key in about)
        entry = entries.setdefault(id_, Entry(name, type_, last_used, description))
        row["live"] = row["host_id"] in live
        entry.is_available |= row["live"]
        entry.files.append(row)
    for entry in entries.values():
        entry.files.sort(key=lambda row: (not row["live"], row["host_id"]))
    for download in Download.objects.filter(chosen, state__in=ACTIVE).select_related("model"):
        model = download.model
        entry = entries.setdefault(
            model.pk, Entry(model.name, model.type, model.last_used, model.description)
        )
        entry.downloads.append(download)
    return entries


# -- one model -----------------------------------------------------------------------------------------
def model_of(*, name: str, model_type: str | None = None) -> Model:
    """The model of that name. NotFound if there is none; ValidationFailed if several types have it."""
    if model_type is not None:
        model_type = kinds.checked(model_type, more=reported_folders())
    found = list(
        Model.objects.filter(_there, name=name, **({"type": model_type} if model_type else {})).distinct()
    )
    if not found:
        raise NotFound(f"There is no {model_type or 'model'} {name[:200]}")
    if len(found) > 1:
        types = ", ".join(sorted(model.type for model in found))
        message = f"There are several models of this name; choose one with model_type: {types}"
        raise ValidationFailed([Detail("AMBIGUOUS", message, "model_type")])
    return found[0]


# A model that no host has or downloads does not exist, whatever its history.
_there = Q(files__isnull=False) | Q(downloads__state__in=ACTIVE)


def reported_folders() -> list[str]:
    """ComfyUI's names of all model folders on any host."""
    return [folder for places in Host.objects.values_list("places", flat=True) for folder in places]


def entries_of(models: Sequence[Model]) -> dict[int, Entry]:
    """The state of each, by its primary key. Three queries."""
    found = _entries(Q(model__in=models), live_hosts(), COLUMNS)
    return {
        model.pk: found.get(model.pk) or Entry(model.name, model.type, model.last_used, model.description)
        for model in models
    }


def entry_of(model: Model) -> Entry:
    """The full state of the model."""
    entries = _entries(Q(model=model), live_hosts(), (*COLUMNS, "metadata"))
    return entries.get(model.pk) or Entry(model.name, model.type, model.last_used, model.description)
