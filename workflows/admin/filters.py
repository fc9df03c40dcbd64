"""Filters of the admin's list of executions. Each has an index, so that a rare value costs no full scan; for
several at once see `compared_since`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q, QuerySet, Value
from django.db.models.functions import Coalesce, Now
from django.http import HttpRequest
from unfold.contrib.filters.admin import TextFilter

from accounts.models import User
from comfyserve.console import paging
from comfyserve.console.filters import Dropdown, FieldDropdown
from models_registry.models import Model
from workflows.models import TERMINAL, Execution, FailureCause, Status, Worker

SEARCHED_ERRORS = 1_000  # failed executions that a text search covers
COMPARED = 2_000  # executions that several filters at once are compared with
USERS = 1_000  # matches per search
MODELS = 200  # choices listed

Rows = QuerySet[Execution]
SPANS = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
    "month": timedelta(days=30),
}


def with_error_like(text: str, rows: Rows) -> Q:
    """Those of `rows` with this text in their error, among the latest SEARCHED_ERRORS that failed."""
    failed = Q(status=Status.FAILED, completed_at__isnull=False)  # the condition of the index, too
    bound = _before_latest(rows.filter(failed), SEARCHED_ERRORS)
    found = failed & Q(error__icontains=text)
    return found if bound is None else found & Q(created_at__gt=bound)


def users_like(text: str) -> list[int]:
    """Users by part of their name or e-mail address."""
    found = User.objects.filter(Q(email__icontains=text) | Q(username__icontains=text))
    return list(found.values_list("id", flat=True)[:USERS])


class StatusFilter(FieldDropdown):
    def queryset(self, request: HttpRequest, rows: Rows) -> Rows:
        found: Rows = super().queryset(request, rows)
        # The condition of the index, too.
        return found.filter(completed_at__isnull=False) if self.value() in TERMINAL else found


class UserFilter(TextFilter):  # type: ignore[misc]
    title = "user (name or e-mail)"
    parameter_name = "user"

    def queryset(self, request: HttpRequest, rows: Rows) -> Rows:  # noqa: ARG002
        return rows.filter(user_id__in=users_like(self.value())) if self.value() else rows


class WorkerFilter(Dropdown):
    title = "worker"
    parameter_name = "worker"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:  # noqa: ARG002
        return [(name, name) for name in Worker.objects.order_by("name").values_list("name", flat=True)]

    def queryset(self, request: HttpRequest, rows: Rows) -> Rows:  # noqa: ARG002
        return rows.filter(worker=self.value()) if self.value() else rows


class ModelFilter(Dropdown):
    title = "model"
    parameter_name = "model"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:  # noqa: ARG002
        used = Model.objects.filter(last_used__isnull=False).order_by("-last_used")
        return [(name, name) for name in sorted(set(used.values_list("name", flat=True)[:MODELS]))]

    def queryset(self, request: HttpRequest, rows: Rows) -> Rows:  # noqa: ARG002
        return rows.filter(models_used__contains=[{"name": self.value()}]) if self.value() else rows


class CauseFilter(Dropdown):
    title = "failure cause"
    parameter_name = "cause"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:  # noqa: ARG002
        return [(cause, words_of(cause)) for cause in FailureCause.values]

    def queryset(self, request: HttpRequest, rows: Rows) -> Rows:  # noqa: ARG002
        if not self.value():
            return rows
        cause = Coalesce("failure_cause", Value(FailureCause.OTHER))  # as in the index
        return rows.alias(cause=cause).filter(cause=self.value(), status=Status.FAILED)


def words_of(cause: str) -> str:
    return cause.replace("_", " ")


class SubmittedFilter(Dropdown):
    title = "submission time"
    parameter_name = "submitted"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:  # noqa: ARG002
        return [(name, f"In the last {name}") for name in SPANS]

    def queryset(self, request: HttpRequest, rows: Rows) -> Rows:  # noqa: ARG002
        span = SPANS.get(self.value() or "")
        return rows.filter(created_at__gte=Now() - span) if span else rows


def compared_since(
    request: HttpRequest, rows: Rows, chosen: Sequence[Any], *, searched: bool
) -> datetime | None:
    """Since when executions are compared with the chosen filters, and with a text that is searched for; None:
    all are.

    An index has what one filter leaves in the order of the list, except for models, but none has what several
    leave: for a page with few matches PostgreSQL could read all that one of them leaves. Therefore only the
    latest COMPARED that one of them leaves are compared with the others, of the one that goes back furthest.
    """
    kinds = {type(each) for each in chosen} - {SubmittedFilter}
    in_order = len(kinds) + searched < 2 and ModelFilter not in kinds
    if in_order or (kinds == {UserFilter, StatusFilter} and not searched):
        return None
    left = {type(each): each.queryset(request, rows) for each in chosen}
    of_model = left.pop(ModelFilter, None)
    if of_model is not None and paging.planned_count(of_model) <= COMPARED:
        return None  # its index has them all
    bounds = [_before_latest(each, COMPARED) for each in left.values() or [rows]]
    known = [bound for bound in bounds if bound is not None]
    return min(known) if len(known) == len(bounds) else None


def _before_latest(rows: Rows, number: int) -> datetime | None:
    """When the last one before the latest `number` was submitted; None if there are no more."""
    latest = rows.order_by("-created_at").values_list("created_at", flat=True)
    return latest[number : number + 1].first()
