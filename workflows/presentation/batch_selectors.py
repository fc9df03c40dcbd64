"""Batches as users read them: fetched with permission, counted, and rendered for responses and webhooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from django.db.models import Avg, Count, QuerySet

from accounts.models import User
from comfyserve.api.errors import NotFound
from workflows.models import ALIVE, Batch, Execution, Status

from . import selectors


def batches_of(user: User) -> QuerySet[Batch]:
    """The user's batches, latest first."""
    return Batch.objects.filter(user=user).order_by("-created_at", "id")


def batch_of(*, user: User, batch_id: str) -> Batch:
    """Raises NotFound also if the id is malformed or belongs to another user."""
    try:
        found = Batch.objects.filter(user=user, id=UUID(batch_id)).first()
    except ValueError:
        found = None
    if found is None:
        raise NotFound(f"There is no batch {batch_id[:100]}")
    return found


def counts(ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
    """The number of executions by status and the overall percentage, for each batch; one query."""
    found: dict[UUID, dict[str, Any]] = {id_: {"counts": dict.fromkeys(Status.values, 0)} for id_ in ids}
    done: dict[UUID, float] = dict.fromkeys(ids, 0.0)
    rows = Execution.objects.filter(batch__in=ids).values("batch_id", "status")
    for row in rows.annotate(count=Count("id"), percentage=Avg("percentage")).order_by():
        found[row["batch_id"]]["counts"][row["status"]] = row["count"]
        ended = row["status"] not in ALIVE
        done[row["batch_id"]] += row["count"] * (100.0 if ended else row["percentage"])
    for id_, shown in found.items():
        total = sum(shown["counts"].values())
        shown["percentage"] = round(done[id_] / total, 1) if total else 100.0
    return found


def executions_of(batch: Batch) -> QuerySet[Execution]:
    """In batch order."""
    return Execution.objects.filter(batch=batch).order_by("batch_position", "id")


def shown(batches: Sequence[Batch]) -> list[dict[str, Any]]:
    """With progress and counts; one query for all."""
    counted = counts([batch.id for batch in batches])
    return [
        {
            "batch_id": batch.id,
            "status": "completed" if batch.completed_at else "running",
            "created_at": batch.created_at,
            "completed_at": batch.completed_at,
            "total": batch.total,
            "remaining": batch.remaining,
            **counted[batch.id],
            "app": batch.app or None,
            "metadata": batch.metadata,
        }
        for batch in batches
    ]


def members(page: Iterable[Execution]) -> list[dict[str, Any]]:
    """Short form of a batch's executions, with the values that differ between them; one query."""
    rows = list(page)
    inputs = selectors.inputs([row.id for row in rows])
    return [
        {
            "position": row.batch_position,
            "execution_id": row.id,
            "status": row.status,
            "percentage": round(row.percentage, 1),
            "inputs": inputs.get(row.id),
            "error": row.error,
        }
        for row in rows
    ]
