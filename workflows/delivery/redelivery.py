"""Redelivers files, to their original target or to another one that the user gives.

A URL that was given for one run is erased when its delivery ends, so another one must be given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction
from django.db.models import BooleanField, Count, ExpressionWrapper, OuterRef, Q, Subquery
from django.db.models.functions import Now

from accounts.models import User
from comfyserve import secret_box
from comfyserve.api.errors import Conflict, ValidationFailed
from comfyserve.near_names import did_you_mean, near
from files import destinations
from workflows import notify
from workflows.models import Execution, OutputDelivery

from . import plan

State = OutputDelivery.State
MAX_FILES = 10_000  # files at once


def redeliver(
    execution: Execution,
    *,
    user: User,
    files: Sequence[str] | None = None,
    deliver_to: Mapping[str, Any] | None = None,
) -> None:
    """Send the files named in `files` again, or those that were not delivered.

    Raises ValidationFailed by field, and Conflict if there is nothing to send or a file is being sent. May
    query DNS: not inside a transaction.
    """
    place = plan.checked(deliver_to, user=user, path="deliver_to") if deliver_to else None
    with transaction.atomic():
        chosen = _chosen(_locked(execution), files)
        _place(chosen, place)
        _reset([row.id for row in chosen])


def redeliver_one(row: OutputDelivery) -> None:
    """Send a finished delivery to its destination again, successful or not. Raises Conflict."""
    with transaction.atomic():
        current = OutputDelivery.objects.select_for_update().filter(id=row.id).first()
        if current is None or current.state == State.WAITING:
            raise Conflict("it is not finished yet")
        if current.destination_id is None:
            raise Conflict("its URL or destination is no longer stored")
        _reset([current.id])


def redeliver_failed(**chosen: Any) -> int:
    """Send the failed ones among `chosen`, as in a filter, to their destinations; returns their number.

    At most MAX_FILES at once. Those for a URL that is no longer stored are skipped.
    """
    failed = OutputDelivery.objects.filter(state=State.FAILED, destination__isnull=False, **chosen)
    with transaction.atomic():
        locked = failed.select_for_update(of=("self",), skip_locked=True).order_by("id")
        return _reset(list(locked.values_list("id", flat=True)[:MAX_FILES]))


def _locked(execution: Execution) -> list[Any]:
    """Its deliveries in the order of outputs, each with `is_being_sent`, by the database's clock."""
    taken = ExpressionWrapper(Q(taken_until__gt=Now()), output_field=BooleanField())
    rows = OutputDelivery.objects.filter(execution=execution).select_for_update(of=("self",))
    rows = rows.select_related("destination").annotate(is_being_sent=taken)
    return sorted(rows.order_by("id"), key=lambda row: row.output_id)


def failures() -> Subquery:
    """For a query of destinations: the number of failed files of each."""
    failed = OutputDelivery.objects.filter(destination=OuterRef("pk"), state=State.FAILED)
    counted = failed.order_by().values("destination").annotate(number=Count("id")).values("number")
    return Subquery(counted)


# -- selection and target --------------------------------------------------------------------------------
def _chosen(rows: Sequence[Any], files: Sequence[str] | None) -> list[OutputDelivery]:
    if not rows:
        raise Conflict("This execution has no files to deliver: it had no `output.deliver_to`")
    names = [row.filename for row in rows]
    for number, name in enumerate(files or ()):
        if name not in names:
            hint = did_you_mean(near(name, names))
            raise ValidationFailed.of(f"files.{number}", f"No file '{name[:200]}' is to be delivered{hint}")
    chosen = [row for row in rows if (row.filename in files if files else row.state != State.DELIVERED)]
    if not chosen:
        raise Conflict("Every file was delivered; name in `files` those to deliver again")
    for row in chosen:
        if row.is_being_sent:
            raise Conflict(f"'{row.filename}' is being delivered right now")
    return chosen


def _place(chosen: Sequence[OutputDelivery], place: plan.Place | None) -> None:
    """Set the target of each; without a new place it stays the same."""
    if place is None:
        for row in chosen:
            if row.destination is None and not row.secret_url:
                raise ValidationFailed.of("deliver_to", _why_nowhere(row), "REQUIRED_FIELD")
        return
    if place.destination is None and len(place.urls) < len(chosen):
        message = f"{len(chosen)} files are to be delivered, but {len(place.urls)} URLs were given"
        raise ValidationFailed.of("deliver_to.urls", message)
    for number, row in enumerate(chosen):
        row.destination, row.secret_url = place.destination, ""
        if place.destination is None:
            url = place.urls[number]
            row.secret_url, row.url = secret_box.encrypt(url), plan.without_secrets(url)
        else:
            row.url = destinations.plain_url(place.destination, f"{row.execution_id}/{row.filename}")
    OutputDelivery.objects.bulk_update(chosen, ["destination", "secret_url", "url"])


def _why_nowhere(row: OutputDelivery) -> str:
    if row.url:
        gone = f"The URL or destination of '{row.filename}' is no longer stored"
    else:
        gone = f"'{row.filename}' never had a URL"
    return f"{gone}: give another one"


def _reset(ids: Sequence[int]) -> int:
    count = OutputDelivery.objects.filter(id__in=ids).update(
        state=State.WAITING, error="", tries=0, due_at=Now(), retried_since=Now(), finished_at=None,
        token=None, taken_until=None,
    )  # fmt: skip
    if count:
        transaction.on_commit(notify.wake_webhooks)
    return count
