"""Ended executions go, with everything that belongs to them. No other code deletes one."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from accounts import quotas
from accounts.models import User
from files import pins
from files.models import File
from workflows.models import TERMINAL, Delivery, Execution, Output

from . import scheduling


def removable() -> QuerySet[Execution]:
    """Those that have ended, and about which nobody is still to be told."""
    untold = Delivery.objects.filter(execution=OuterRef("pk"), state=Delivery.State.WAITING)
    return Execution.objects.filter(~Exists(untold), status__in=TERMINAL)


def remove(rows: QuerySet[Execution], *, skip_locked: bool = False) -> list[UUID]:
    """These executions of one short transaction, where they are still as `rows` asks; which went.

    Their files go through the door of `files`: one that a waiting or running execution needs stays, and
    expires as any other. Raises nothing when the storage is unavailable: the sweep finds the bytes.
    """
    with transaction.atomic():
        owners = rows.filter(outputs__file__isnull=False).order_by().values_list("user_id", flat=True)
        for user_id in sorted(set(owners)):  # before the rows, as everybody who takes both
            quotas.lock_storage(user=User(pk=user_id))
        # The row before what belongs to it: two who delete the same one wait for each other here.
        locked = rows.order_by("id").select_for_update(skip_locked=skip_locked, of=("self",))
        going = list(locked.values_list("id", flat=True))
        if going:
            scheduling.remember(going)
            _delete(going)
    return going


def _delete(ids: Sequence[UUID]) -> None:
    files = list(File.objects.filter(outputs__execution__in=ids))
    Output.objects.filter(execution__in=ids).delete()
    if files:
        pins.delete_unneeded(files)
    Execution.objects.filter(id__in=ids).delete()
