"""Deletes ended executions with everything that belongs to them. No other code deletes executions."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from files import pins, storing
from files.models import File
from workflows.models import TERMINAL, Delivery, Execution, Output

from . import scheduling


def removable() -> QuerySet[Execution]:
    """Executions that have ended and have no pending webhook deliveries."""
    undelivered = Delivery.objects.filter(execution=OuterRef("pk"), state=Delivery.State.WAITING)
    return Execution.objects.filter(~Exists(undelivered), status__in=TERMINAL)


def remove(rows: QuerySet[Execution], *, skip_locked: bool = False) -> list[UUID]:
    """Delete these executions in one short transaction, if they still match `rows`; return the ids deleted.

    Their files are deleted through `files`: a file that a pending or running execution needs is kept and
    expires as usual. Does not raise if the storage is unavailable: the sweep removes the bytes later.
    """
    with transaction.atomic():
        # Locked in the order of docs/architecture.md: executions, their storage, their flows.
        locked = rows.order_by("id").select_for_update(skip_locked=skip_locked, of=("self",))
        going = list(locked.values_list("id", flat=True))
        if going:
            files = list(File.objects.filter(outputs__execution__in=going))
            storing.lock(files)
            scheduling.remember(going)
            _delete(going, files)
    return going


def _delete(ids: Sequence[UUID], files: Sequence[File]) -> None:
    Output.objects.filter(execution__in=ids).delete()
    if files:
        pins.delete_unused(files)
    Execution.objects.filter(id__in=ids).delete()
