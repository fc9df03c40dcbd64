"""Files that something still needs. Who needs them is asked of whoever pins: this app knows no executions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import UUID

from django.db import transaction

from comfyserve.api.errors import Conflict

from . import storing
from .models import File, Pin

# Of the given holders, those that still need what they pinned.
Living = Callable[[set[UUID]], set[UUID]]
_living: list[Living] = []


def ask(living: Living) -> None:
    """Whoever pins says here how to ask for its holders; once, when Django starts."""
    _living.append(living)


def pin(file_ids: Iterable[str], *, holder: UUID) -> set[str]:
    """Pin them, in the transaction that makes the holder; those that could be, since they still exist."""
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


def needed(file_ids: Iterable[str]) -> set[str]:
    """Those among them that a living holder has pinned. Pins of others are taken out."""
    pins = list(Pin.objects.filter(file_id__in=set(file_ids)))
    holders = {pin.holder for pin in pins}
    living = set().union(*(ask(holders) for ask in _living)) if holders else set()
    Pin.objects.filter(id__in=[pin.id for pin in pins if pin.holder not in living]).delete()
    return {pin.file_id for pin in pins if pin.holder in living}


def delete_unneeded(files: Sequence[File]) -> list[File]:
    """Delete those that nothing needs; which these are.

    Whoever pins one at the same time comes first, or finds it gone.
    """
    with transaction.atomic():
        storing.lock(files)  # before the rows, as everybody who takes both
        ids = [file.id for file in files]
        locked = list(File.objects.filter(id__in=ids).order_by("id").select_for_update())
        kept = needed(ids)
        going = [file for file in locked if file.id not in kept]
        storing.delete_all(going)
    return going


def delete(file: File) -> None:
    """Conflict while a waiting or running execution needs it, or a saved app has it."""
    if not delete_unneeded([file]) and File.objects.filter(id=file.id).exists():
        raise Conflict("A waiting or running execution needs this file; cancel it first")
