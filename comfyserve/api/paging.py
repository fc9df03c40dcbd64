"""One page of a list by `limit` and `offset`, at a cost that does not grow with the table."""

from __future__ import annotations

from typing import Any, TypeVar

from django.db.models import Model, QuerySet

M = TypeVar("M", bound=Model)

EXACT_UP_TO = 3_000  # rows that are counted; who has more is told "at least"


def page(rows: QuerySet[M], *, limit: int, offset: int) -> QuerySet[M]:
    """That page of `rows`, in their order, in one query.

    The rows that `offset` skips are read from the index alone: only those of the page are fetched.
    """
    chosen = rows.values("pk")[offset : offset + limit]
    return rows.model._default_manager.filter(pk__in=chosen).order_by(*rows.query.order_by)


def count_headers(rows: QuerySet[Any]) -> dict[str, str]:
    """`X-Total-Count`, exact up to EXACT_UP_TO; `X-Total-Count-Relation` says "exact" or "at-least"."""
    counted = rows.values("pk")[: EXACT_UP_TO + 1].count()
    relation = "exact" if counted <= EXACT_UP_TO else "at-least"
    return {"X-Total-Count": str(min(counted, EXACT_UP_TO)), "X-Total-Count-Relation": relation}
