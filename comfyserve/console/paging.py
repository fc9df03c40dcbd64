"""Row counts that stay cheap on big tables: exact while small, the planner's estimate beyond that."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.core.paginator import Paginator
from django.db import connection
from django.db.models import QuerySet

EXACT_UP_TO = 10_000  # rows


class EstimatedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts with `estimated_count`; `is_estimated` says whether the count is an estimate."""

    @cached_property
    def _counted(self) -> tuple[int, bool]:
        rows: Any = self.object_list
        return estimated_count(rows) if isinstance(rows, QuerySet) else (len(rows), False)

    @cached_property
    def count(self) -> int:
        return self._counted[0]

    @property
    def is_estimated(self) -> bool:
        return self._counted[1]


def estimated_count(rows: QuerySet[Any]) -> tuple[int, bool]:
    """(count, whether it is an estimate). Never reads more than EXACT_UP_TO matching rows.

    The planner is asked first: if it expects many rows, they are not counted at all.
    """
    try:
        guess = planned_count(rows)
    except EmptyResultSet:  # the query can match nothing, such as an empty list of ids
        return 0, False
    if guess > EXACT_UP_TO:
        return guess, True
    counted = rows.order_by().values("pk")[: EXACT_UP_TO + 1].count()
    return (counted, False) if counted <= EXACT_UP_TO else (max(guess, counted), True)


def planned_count(rows: QuerySet[Any]) -> int:
    """The planner's estimate."""
    sql, parameters = rows.order_by().values("pk").query.sql_with_params()
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", parameters)
        plan = cursor.fetchone()[0]
    if isinstance(plan, str):
        plan = json.loads(plan)
    return int(plan[0]["Plan"]["Plan Rows"])
