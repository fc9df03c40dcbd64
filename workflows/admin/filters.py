"""Filters of the admin's list of executions. Each has an index, so that a rare value costs no full scan."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.db.models import Q, QuerySet, Value
from django.db.models.functions import Coalesce, Now
from django.http import HttpRequest
from unfold.contrib.filters.admin import TextFilter

from accounts.models import User
from comfyserve.console.filters import Dropdown
from models_registry.models import Model
from workflows.models import Execution, FailureCause, Status, Worker

SEARCHED_ERRORS = 1_000  # failed executions that a text search covers
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
    latest = rows.filter(failed).order_by("-created_at").values_list("created_at", flat=True)
    bound = latest[SEARCHED_ERRORS : SEARCHED_ERRORS + 1].first()
    found = failed & Q(error__icontains=text)
    return found if bound is None else found & Q(created_at__gt=bound)


def users_like(text: str) -> list[int]:
    """Users by part of their name or e-mail address."""
    found = User.objects.filter(Q(email__icontains=text) | Q(username__icontains=text))
    return list(found.values_list("id", flat=True)[:USERS])


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
