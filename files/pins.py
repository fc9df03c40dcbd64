"""Files in use. The app that pins them says which holders are active: this app does not know executions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import UUID

from django.db import transaction

from comfyserve.api.errors import Conflict

from . import storing
from .models import File, Pin

# Of the given holders, those that are still active.
ActiveHolders = Callable[[set[UUID]], set[UUID]]
_active_holders: list[ActiveHolders] = []


def register(active: ActiveHolders) -> None:
    """Register a callback that checks the app's holders; once, when Django starts."""
    _active_holders.append(active)


def pin(file_ids: Iterable[str], *, holder: UUID) -> set[str]:
    """Pin them, in the transaction that creates the holder; returns those that still existed."""
    return pin_all({holder: file_ids})


def pin_all(wanted: Mapping[UUID, Iterable[str]]) -> set[str]:
    """The same for several holders, in two statements."""
    by_holder = {holder: set(ids) for holder, ids in wanted.items()}
    rows = File.objects.filter(id__in=set().union(*by_holder.values())).order_by("id")
    found = set(rows.select_for_update(no_key=True).values_list("id", flat=True))
    Pin.objects.bulk_create(
        [
            Pin(file_id=file_id, holder=holder)
            for holder, ids in by_holder.items()
            for file_id in sorted(ids & found)
        ],
        ignore_conflicts=True,
    )
    return found


def in_use(file_ids: Iterable[str]) -> set[str]:
    """Those of them that an active holder has pinned. Pins of ended holders are removed."""
    pins = list(Pin.objects.filter(file_id__in=set(file_ids)))
    holders = {pin.holder for pin in pins}
    active = set().union(*(active_of(holders) for active_of in _active_holders)) if holders else set()
    Pin.objects.filter(id__in=[pin.id for pin in pins if pin.holder not in active]).delete()
    return {pin.file_id for pin in pins if pin.holder in active}


def delete_unused(files: Sequence[File]) -> list[File]:
    """Delete those that are not in use; returns which.

    A concurrent pin either wins, or finds the file gone.
    """
    with transaction.atomic():
        storing.lock(files)  # before the rows: the lock order of all code that takes both
        ids = [file.id for file in files]
        locked = list(File.objects.filter(id__in=ids).order_by("id").select_for_update())
        kept = in_use(ids)
        going = [file for file in locked if file.id not in kept]
        storing.delete_all(going)
    return going


def delete(file: File) -> None:
    """Conflict while a waiting or running execution needs it, or a saved app references it."""
    if not delete_unused([file]) and File.objects.filter(id=file.id).exists():
        raise Conflict("A waiting or running execution needs this file; cancel it first")
