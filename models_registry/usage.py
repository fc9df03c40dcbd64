"""Model usage, hosts and suggestions: the registry's interface for executions."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now

from .models import Host, Model, ModelFile

SUGGESTIONS = 3


def used(models: Iterable[tuple[str, str]]) -> None:
    """Record that an execution uses these models, given as (type, name), now."""
    wanted = Q(pk__in=[])
    for type_, name in models:
        wanted |= Q(type=type_, name=name)
    if wanted != Q(pk__in=[]):
        Model.objects.filter(wanted).update(last_used=Now())


def hosts_reported(*, within: timedelta) -> QuerySet[Host, Any]:
    """Hosts that reported recently, by name."""
    return Host.objects.filter(reported_at__gt=Now() - within).values("name")


def missing(hosts: Iterable[str], *, names: Iterable[str]) -> dict[str, set[str]]:
    """By host: those of the names that it lacks and another of them has. One query, or none.

    A host that has reported no file at all is omitted: its files are unknown. Types are ignored, since a node
    may look elsewhere than we would.
    """
    wanted = {name.replace("\\", "/") for name in names}
    if not wanted:
        return {}
    some = Exists(ModelFile.objects.filter(host=OuterRef("pk")))
    has = ArraySubquery(
        ModelFile.objects.filter(host=OuterRef("pk"), model__name__in=wanted).values("model__name")
    )
    found = dict(Host.objects.filter(some, name__in=list(hosts)).values_list("name", has))
    anywhere = {name for names in found.values() for name in names}
    return {host: anywhere - set(names) for host, names in found.items()}


def whereabouts(names: Iterable[str]) -> dict[str, set[str]]:
    """By name: the hosts that have a model file of that name, alive or not. One query, or none."""
    wanted = {name.replace("\\", "/") for name in names}
    found: dict[str, set[str]] = {}
    if wanted:
        rows = ModelFile.objects.filter(model__name__in=wanted)
        for name, host in rows.values_list("model__name", "host_id"):
            found.setdefault(name, set()).add(host)
    return found


def near(*, name: str, type_: str | None) -> list[str]:
    """Existing model names similar to `name`, the closest first; one query.

    Subfolders and extensions count little: they are what users usually get wrong.
    """
    rows = Model.objects.filter(files__isnull=False)
    names = list(rows.filter(type=type_).values_list("name", flat=True).distinct() if type_ else [])
    by_stem: dict[str, list[str]] = {}
    for each in sorted(names):
        by_stem.setdefault(_stem(each), []).append(each)
    close = difflib.get_close_matches(_stem(name), by_stem, n=SUGGESTIONS, cutoff=0.6)
    return [each for stem in close for each in by_stem[stem]][:SUGGESTIONS]


def embeddings_on(host: str) -> list[str] | None:
    """Names of the embeddings on a host; None if its files are unknown."""
    files = ModelFile.objects.filter(host=host)
    if not files.exists():
        return None
    return list(files.filter(model__type="embedding").values_list("model__name", flat=True))


def embeddings() -> list[str]:
    """Names of the embeddings on any host, in order."""
    files = ModelFile.objects.filter(model__type="embedding")
    return sorted(set(files.values_list("model__name", flat=True)))


def _stem(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2].rpartition(".")[0].lower() or name.lower()
