"""Cleanup shared by all apps: reporting what is removed, and limiting the load on the running system.

An app's `cleaning.clean` yields what it removes, batch by batch, and removes it unless `dry_run` is set. Each
batch is a short transaction of its own, committed when it is yielded: stopping in between loses nothing, and
the next run continues there. Ages are computed with the database's clock, so that a machine with a wrong
clock deletes nothing early.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import BooleanField, ExpressionWrapper, Model, Q, QuerySet
from django.db.models.functions import Now

logger = logging.getLogger(__name__)

BATCH = 500  # rows
RESTS = 4.0  # multiples of a batch's duration: uses a fifth of one core at most
LONGEST_REST = 5.0  # seconds
RUN_SECONDS = 300.0  # per run by Celery; the next one continues

stopping = threading.Event()  # this process is shutting down


@dataclass(frozen=True)
class Gone:
    what: str  # plural noun, such as "executions"
    name: str = ""  # which one, if it has a user-visible name
    count: int = 1
    size: int | None = None  # bytes, where they are known


Clean = Callable[..., Iterator[Gone]]  # (*, dry_run: bool)


def ago(amount: float, *, unit: str = "days") -> Any:
    """The time that long ago, for a query."""
    return Now() - timedelta(**{unit: amount})


# -- rows ------------------------------------------------------------------------------------------------
def rows(going: QuerySet[Any], *, what: str, dry_run: bool) -> Iterator[Gone]:
    """Rows to delete together with what references them. `going` is ordered by the columns its index starts
    with."""
    if dry_run:
        if count := going.count():
            yield Gone(what, count=count)
        return
    while ids := list(going.values_list("pk", flat=True)[:BATCH]):
        # Checked again: rows changed since then are kept.
        count = going.order_by().filter(pk__in=ids).delete()[1].get(going.model._meta.label, 0)
        if not count:
            return
        yield Gone(what, count=count)


def oldest_rows(model: type[Model], *, old: Q, done: Q, what: str, dry_run: bool) -> Iterator[Gone]:
    """Rows of an append-only table: those that are `old` and `done`, in the order of their ids.

    Needs no index on their age. The scan ends with the first batch that has no old rows.
    """
    last = 0
    flag = ExpressionWrapper(old, output_field=BooleanField())
    both = ExpressionWrapper(old & done, output_field=BooleanField())
    table: QuerySet[Any] = model._default_manager.order_by("id").annotate(is_old=flag, goes=both)
    while batch := list(table.filter(pk__gt=last).values_list("pk", "is_old", "goes")[:BATCH]):
        last = batch[-1][0]
        ids = [pk for pk, _, goes in batch if goes]
        if ids:
            count = len(ids)
            if not dry_run:
                deleted = model._default_manager.filter(old, done, pk__in=ids).delete()
                count = deleted[1].get(model._meta.label, 0)
            yield Gone(what, count=count)
        if not any(is_old for _, is_old, _ in batch):
            return


# -- runs ------------------------------------------------------------------------------------------------
def throttled(clean: Iterator[Gone], *, seconds: float | None = None) -> Iterator[Gone]:
    """The same, sleeping after each batch for RESTS times its duration, until the process shuts down."""
    ends = None if seconds is None else time.monotonic() + seconds
    began = time.monotonic()
    for gone in clean:
        yield gone
        took = time.monotonic() - began
        if stopping.wait(min(took * RESTS, LONGEST_REST)) or (ends is not None and time.monotonic() > ends):
            return
        began = time.monotonic()


def run(clean: Clean) -> None:
    """A run by Celery. Its result is logged, also when it fails."""
    counts: Counter[str] = Counter()
    try:
        for gone in throttled(clean(dry_run=False), seconds=RUN_SECONDS):
            counts[gone.what] += gone.count
    finally:
        if counts:
            logger.info("cleaned %s", summary(counts), extra={"action": "cleaned"})


def summary(counts: Counter[str]) -> str:
    """`3 executions, 1 session`, or `nothing`."""
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()) if count) or "nothing"
