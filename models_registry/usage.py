"""When models were used, and by which names they may have been meant: what executions ask and tell."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from django.db.models import Q
from django.db.models.functions import Now

from .models import Model

SUGGESTIONS = 3


def used(models: Iterable[tuple[str, str]]) -> None:
    """An execution uses these models, given as (type, name), now."""
    wanted = Q(pk__in=[])
    for type_, name in models:
        wanted |= Q(type=type_, name=name)
    if wanted != Q(pk__in=[]):
        Model.objects.filter(wanted).update(last_used=Now())


def near(*, name: str, type_: str | None) -> list[str]:
    """Names of models there are that are like `name`, the nearest first; one query.

    Subfolders and extensions count little: what people get wrong is where a file lies and what it ends in.
    """
    rows = Model.objects.filter(files__isnull=False)
    names = list(rows.filter(type=type_).values_list("name", flat=True).distinct() if type_ else [])
    by_stem: dict[str, list[str]] = {}
    for each in sorted(names):
        by_stem.setdefault(_stem(each), []).append(each)
    close = difflib.get_close_matches(_stem(name), by_stem, n=SUGGESTIONS, cutoff=0.6)
    return [each for stem in close for each in by_stem[stem]][:SUGGESTIONS]


def _stem(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2].rpartition(".")[0].lower() or name.lower()
