"""`/jobs`: queue and history together, as newer ComfyUIs show them. Errors are `{"error": text}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.db.models.fields.json import KT
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import User
from comfyserve.api.error_format import ErrorFormat
from comfyserve.api.errors import ApiError, NotFound, ValidationFailed
from workflows.api.views import user_of
from workflows.models import ALIVE, Execution, Graph
from workflows.presentation import selectors

from . import prompts, representations
from .errors import ComfyUIView

NEWEST = 1000  # jobs that are filtered and sorted: the user's newest
MAX_LIMIT = 200  # jobs in one response
SORTS, ORDERS = ("created_at", "execution_duration"), ("asc", "desc")
STATUSES = {shown: status for status, shown in representations.JOB_STATUSES.items()}
WORKFLOW_ID = "extras__extra_data__extra_pnginfo__workflow__id"


def _render_error(known: ApiError) -> tuple[int, dict[str, Any], dict[str, str]]:
    message = "; ".join(each.message for each in known.details) or known.message
    return known.status, {"error": message}, dict(known.headers)


class JobsBaseView(ComfyUIView):
    error_format = ErrorFormat(_render_error)


class JobsView(JobsBaseView):
    def get(self, request: Request) -> Response:
        """Filtered by `status` (several, with commas) and `workflow_id`, sorted, and at most 200 at once."""
        asked = _Query.of(request.query_params)
        found = _sorted(_newest(user_of(request), asked), asked)
        page = found[asked.offset : asked.offset + asked.limit]
        shown = {
            "offset": asked.offset,
            "limit": asked.limit,
            "total": len(found),
            "has_more": asked.offset + len(page) < len(found),
        }
        rows = Execution.objects.in_bulk([each.id for each in page])
        jobs = [rows[each.id] for each in page if each.id in rows]  # others were deleted meanwhile
        return Response({"jobs": _shown(jobs), "pagination": shown})


class JobView(JobsBaseView):
    def get(self, request: Request, job_id: str) -> Response:
        """With outputs and workflow. NotFound for one that is hidden from the history, too."""
        user = user_of(request)
        try:
            found = selectors.execution_of(user=user, execution_id=job_id, with_graph=True)
        except NotFound:
            raise NotFound("Job not found") from None
        if found.status not in ALIVE and not prompts.is_shown(found, user):
            raise NotFound("Job not found")
        [job] = _shown([found])  # the outputs are read after the row: with an end they are there
        details = selectors.error_details_of([found.id] if found.error else [])
        made = selectors.outputs([found.id])
        return Response(job | representations.job_details(found, made[found.id], details.get(found.id) or {}))


class CancelView(JobsBaseView):
    def post(self, request: Request, job_id: str) -> Response:
        """`cancelled` is false for one that has ended and one that is unknown."""
        return Response({"cancelled": prompts.cancel(user_of(request), prompts.uuids([job_id]))})


class CancelSeveralView(JobsBaseView):
    def post(self, request: Request) -> Response:
        """`cancelled` is true if any of `job_ids` was."""
        given = request.data.get("job_ids") if isinstance(request.data, dict) else None
        if not isinstance(given, list) or len(given) > prompts.IDS:
            raise ValidationFailed.of("job_ids", f"job_ids must be a list of at most {prompts.IDS} ids")
        ids = prompts.uuids(given)
        if len(ids) < len(given):
            raise ValidationFailed.of("job_ids", "job_ids contains invalid id(s)")
        return Response({"cancelled": prompts.cancel(user_of(request), ids)})


# -- the list --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Query:
    statuses: list[str]  # ours; all if it is empty
    workflow_id: str
    by_duration: bool
    newest_first: bool
    limit: int
    offset: int

    @classmethod
    def of(cls, query: Mapping[str, str]) -> _Query:
        """Raises ValidationFailed."""
        named = [name.strip().lower() for name in query.get("status", "").split(",") if name.strip()]
        if wrong := [name for name in named if name not in STATUSES]:
            valid = ", ".join(STATUSES)
            raise _mistake(
                "status", f"Invalid status value(s): {', '.join(wrong)[:100]}. Valid values: {valid}"
            )
        sort, order = query.get("sort_by", SORTS[0]).lower(), query.get("sort_order", "desc").lower()
        if sort not in SORTS:
            raise _mistake("sort_by", "sort_by must be 'created_at' or 'execution_duration'")
        if order not in ORDERS:
            raise _mistake("sort_order", "sort_order must be 'asc' or 'desc'")
        limit = _whole_number(query, "limit", otherwise=MAX_LIMIT)
        if limit <= 0:
            raise _mistake("limit", "limit must be a positive integer")
        return cls(
            statuses=[STATUSES[name] for name in named],
            workflow_id=query.get("workflow_id", ""),
            by_duration=sort != SORTS[0],
            newest_first=order == "desc",
            limit=min(limit, MAX_LIMIT),
            offset=max(0, _whole_number(query, "offset", otherwise=0)),
        )


def _whole_number(query: Mapping[str, str], name: str, *, otherwise: int) -> int:
    text = query.get(name)
    if text is None:
        return otherwise
    try:
        return int(text[:9])
    except ValueError:
        raise _mistake(name, f"{name} must be an integer") from None


def _mistake(field: str, message: str) -> ValidationFailed:
    return ValidationFailed.of(field, message)


@dataclass(frozen=True)
class _Job:
    id: UUID
    started_at: datetime | None = None  # the times are read only to sort by duration
    completed_at: datetime | None = None

    @property
    def duration(self) -> timedelta:
        if self.started_at is None or self.completed_at is None:
            return timedelta(0)
        return self.completed_at - self.started_at


def _newest(user: User, asked: _Query) -> list[_Job]:
    """Latest first. The statuses are read at one moment, so that none is missed while they change."""
    rows = selectors.executions_of(user=user)
    if asked.statuses:
        rows = rows.filter(status__in=asked.statuses)
    if user.history_cleared_at is not None:
        rows = rows.filter(Q(status__in=ALIVE) | Q(completed_at__gt=user.history_cleared_at))
    # Without the times, the index alone has what is read.
    columns = ("id", "started_at", "completed_at") if asked.by_duration else ("id",)
    found = [_Job(*row) for row in rows.values_list(*columns)[:NEWEST]]
    if not asked.workflow_id:
        return found
    graphs = Graph.objects.filter(execution_id__in=[each.id for each in found])
    wanted = set(graphs.filter(**{WORKFLOW_ID: asked.workflow_id}).values_list("execution_id", flat=True))
    return [each for each in found if each.id in wanted]


def _sorted(jobs: list[_Job], asked: _Query) -> list[_Job]:
    if asked.by_duration:
        return sorted(jobs, key=lambda each: each.duration, reverse=asked.newest_first)
    return jobs if asked.newest_first else jobs[::-1]


def _shown(executions: Sequence[Execution]) -> list[dict[str, Any]]:
    """In the given order."""
    ids = [each.id for each in executions]
    made = selectors.outputs(ids)
    details = selectors.error_details_of([each.id for each in executions if each.error])
    workflows = Graph.objects.filter(execution_id__in=ids).annotate(workflow=KT(WORKFLOW_ID))
    workflow_ids = dict(workflows.values_list("execution_id", "workflow"))
    return [
        representations.job(each, made[each.id], details.get(each.id) or {}, workflow_ids.get(each.id))
        for each in executions
    ]
