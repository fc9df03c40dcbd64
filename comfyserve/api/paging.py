"""One page of a list by `limit` and `offset` or `cursor`, at a cost that does not grow with the table.

A cursor continues after the last row of a page, so that concurrent inserts and deletes cause no duplicates
and no gaps. Lists are ordered by `-created_at` and then by their primary key.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from django.core.exceptions import ValidationError
from django.db.models import Model, Q, QuerySet

from .errors import ValidationFailed

M = TypeVar("M", bound=Model)

EXACT_UP_TO = 3_000  # rows counted at most; beyond that the total is "at least"
EXACT_UP_TO_FETCHED = 500  # the same where an index alone does not have what the filter needs


def page(rows: QuerySet[M], *, limit: int, offset: int, cursor: str | None = None) -> QuerySet[M]:
    """One page of `rows`, in their order, in one query. ValidationFailed for an invalid cursor.

    Rows skipped by `offset` are read from the index alone: only those of the page are fetched.
    """
    rows = after(rows, cursor)
    chosen = rows.values("pk")[offset : offset + limit]
    return rows.model._default_manager.filter(pk__in=chosen).order_by(*rows.query.order_by)


def next_headers(page: Sequence[Any], *, limit: int) -> dict[str, str]:
    """`X-Next-Cursor`, if there may be more."""
    if len(page) < limit:
        return {}
    last = page[-1]
    text = f"{last.created_at.isoformat()}|{last.pk}"
    return {"X-Next-Cursor": base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")}


def after(rows: QuerySet[M], cursor: str | None) -> QuerySet[M]:
    """Those after the page that returned the cursor; all without one. ValidationFailed if it is invalid."""
    if cursor is None:
        return rows
    _, by_key = rows.query.order_by
    moment, key = _read(cursor, rows.model)
    further = Q(pk__lt=key) if str(by_key).startswith("-") else Q(pk__gt=key)
    return rows.filter(Q(created_at__lt=moment) | (Q(created_at=moment) & further))


def _read(cursor: str, model: type[Model]) -> tuple[datetime, Any]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        moment, _, key = text.partition("|")
        read = datetime.fromisoformat(moment)
        if read.tzinfo is None:
            raise ValueError("no offset")
        return read, model._meta.pk.to_python(key)
    except (ValueError, binascii.Error, ValidationError) as exc:
        message = "This is not a cursor of ours; begin again without one"
        raise ValidationFailed.of("cursor", message) from exc


def count_headers(rows: QuerySet[Any], *, fetched: bool = False) -> dict[str, str]:
    """`X-Total-Count`, exact up to EXACT_UP_TO; `X-Total-Count-Relation` says "exact" or "at-least".

    `fetched`: the filter has to fetch each row that it counts, so fewer are counted.
    """
    most = EXACT_UP_TO_FETCHED if fetched else EXACT_UP_TO
    counted = rows.values("pk")[: most + 1].count()
    relation = "exact" if counted <= most else "at-least"
    return {"X-Total-Count": str(min(counted, most)), "X-Total-Count-Relation": relation}
