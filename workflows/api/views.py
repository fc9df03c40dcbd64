from __future__ import annotations

from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.http import HttpRequest
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.idempotent_views import idempotent
from accounts.models import User
from comfyserve.api import addresses, paging
from comfyserve.api.errors import Conflict
from comfyserve.api.schema import describe
from comfyserve.api.validation import checked
from workflows.delivery import plan
from workflows.models import Execution, Status
from workflows.presentation import representations, schemas, selectors
from workflows.queue import commands, dry_run, queue_positions, scheduling, submission
from workflows.streaming import asgi, links
from workflows.webhooks import outbox

from . import result_bodies, stream_views
from .serializers import (
    ExecuteSerializer,
    ListQuery,
    LogQuery,
    ResultQuery,
    SubmissionQuery,
    ValidateSerializer,
)


class SubmittingView(APIView):
    def check_replay(self, shown: dict[str, Any]) -> None:
        """Raises Conflict if the execution of a replayed response has been deleted since."""
        if selectors.by_id(UUID(shown["execution_id"])) is None:
            message = f"The execution {shown['execution_id']} of this Idempotency-Key was deleted; "
            raise Conflict(message + "use a new key to run the workflow again")


class ExecuteView(SubmittingView):
    """Submit a workflow for asynchronous execution."""

    content_negotiation_class = stream_views.JsonOrEvents

    @stream_views.waits
    @idempotent
    @describe(
        ExecuteSerializer,
        {200: schemas.SUBMITTED_OR_ENDED, **stream_views.STREAM},
        parameters=[stream_views.PREFER, SubmissionQuery],
    )
    def post(self, request: Request) -> Response:
        """Execute Workflow: submit a workflow for asynchronous execution.

        With `Prefer: wait=30` the response is held for up to that long. It is the result (as in *Get Workflow
        Result*) if the execution has ended by then, otherwise the normal response with the current progress
        (as in *Get Workflow Status*).

        With `Accept: text/event-stream` the response is the live stream (as in *Follow Execution*). Its first
        event, `accepted`, has the normal response and the `events_url` at which a client continues after a
        disconnect.
        """
        given = checked(ExecuteSerializer, request.data)
        webhook = requested_webhook(given, request._request)
        given["output"] = plan.kept(given["output"], user=user_of(request))
        accepted = submission.submit(user=user_of(request), webhook=webhook, **given)
        return Response(accepted_body(accepted, request))


class ValidateView(APIView):
    """Check a workflow without running it."""

    @describe(ValidateSerializer, schemas.ReportSerializer)
    def post(self, request: Request) -> Response:
        """Validate Workflow: check it as ComfyUI would, and list where it could run, without running it.

        The response is 200 whether it is valid or not. The check uses the nodes and models that the workers
        have reported; execution does not depend on it.
        """
        given = checked(ValidateSerializer, request.data)
        plan.kept(given.get("output") or {}, user=user_of(request))
        return Response(asdict(dry_run.check(user=user_of(request), workflow=given["workflow"])))


class ListView(APIView):
    """The user's executions, latest first."""

    @describe(None, schemas.ResultSerializer(many=True), parameters=[ListQuery])
    def get(self, request: Request) -> Response:
        """List Workflow Executions: your own, latest first.

        Each in the shape of *Get Workflow Result*, but with long texts cut and at most 20 outputs of a kind;
        `truncated` says whether anything is missing.
        """
        query = checked(ListQuery, request.query_params)
        part: dict[str, Any] = {name: query.pop(name, None) for name in ("limit", "offset", "cursor")}
        rows = selectors.executions_of(user=user_of(request), **query)
        page = list(paging.page(rows, **part))
        return Response(
            representations.listed(page, base=addresses.base_of(request._request)),
            headers=paging.count_headers(rows, fetched="app" in query)
            | paging.next_headers(page, limit=part["limit"]),
        )


class ResultView(APIView):
    """One execution: get its result, or delete it with its files."""

    @describe(None, schemas.ResultSerializer, parameters=[ResultQuery])
    def get(self, request: Request, execution_id: str) -> Response:
        """Get Workflow Result."""
        include = checked(ResultQuery, request.query_params).get("include", ())
        found = selectors.whole_of(user=user_of(request), execution_id=execution_id)
        execution, base = found.execution, addresses.base_of(request._request)
        shown = representations.result_of(found, base=base)
        shown["events_url"] = links.events_url(execution.id, base=base)
        if "workflow" in include:
            shown["workflow"] = _workflow_of(execution)
        if execution.app or execution.batch_id:
            shown["inputs"] = selectors.inputs([execution.id]).get(execution.id)
        response = Response(shown)
        if "data" in include:
            asgi.attach(response, result_bodies.with_files(shown, found, base=base))
        return response

    @describe(None, schemas.DoneSerializer, errors=(409,))
    def delete(self, request: Request, execution_id: str) -> Response:
        """Delete Workflow: an ended execution, with its files."""
        commands.delete(execution=selectors.execution_of(user=user_of(request), execution_id=execution_id))
        return Response({"message": "Workflow deleted successfully"})


class StatusView(APIView):
    """Its progress."""

    @describe(None, schemas.StatusSerializer)
    def get(self, request: Request, execution_id: str) -> Response:
        """Get Workflow Status: its status and progress."""
        execution, position = queue_positions.with_execution(user=user_of(request), execution_id=execution_id)
        known = None
        if execution.status == Status.RUNNING:
            known, _ = scheduling.estimate(kind=execution.kind, user_id=execution.user_id)
        return Response(representations.status(execution, queue_position=position, estimated_seconds=known))


class LogsView(APIView):
    """Its log, line by line."""

    @describe(None, schemas.LogsSerializer, parameters=[LogQuery])
    def get(self, request: Request, execution_id: str) -> Response:
        """Get Workflow Logs: the execution's log, line by line."""
        query = checked(LogQuery, request.query_params)
        execution = selectors.execution_of(user=user_of(request), execution_id=execution_id)
        lines, total = selectors.log_of(execution, level=query.get("level"), tail=query["tail"])
        return Response(
            {
                "execution_id": execution.id,
                "logs": [representations.line(entry) for entry in lines],
                "total_count": total,
                "filtered": "level" in query,
            }
        )


class CancelView(APIView):
    """Cancel a pending or running execution; it is terminal when the response is sent."""

    @describe(None, schemas.DoneSerializer, errors=(409,))
    def post(self, request: Request, execution_id: str) -> Response:
        """Cancel Workflow: the execution has ended when the response is sent."""
        commands.cancel(execution=selectors.execution_of(user=user_of(request), execution_id=execution_id))
        return Response({"message": "Workflow cancelled successfully"})


class RetryView(SubmittingView):
    """Submit a failed or cancelled execution again, as a new one."""

    @idempotent
    @describe(None, schemas.RetriedSerializer, errors=(409,))
    def post(self, request: Request, execution_id: str) -> Response:
        """Retry Failed Workflow: submit it again, as a new execution."""
        user = user_of(request)
        execution = selectors.execution_of(user=user, execution_id=execution_id, with_graph=True)
        return Response(
            accepted_body(commands.retry(user=user, execution=execution), request, retried_from=execution.id)
        )


def requested_webhook(given: dict[str, Any], request: HttpRequest) -> outbox.WebhookRequest | None:
    """Remove the webhook fields from a submission and check them."""
    url, chosen = given.pop("webhook_url"), given.pop("webhook_events")
    if not url:
        return None
    wanted = outbox.WebhookRequest(url=url, events=chosen, base=addresses.base_of(request))
    outbox.check(wanted)
    return wanted


def _workflow_of(execution: Execution) -> Any:
    """As submitted; None if it ran an app whose owner hides the graph."""
    hidden_from = (execution.app or {}).get("hidden_from")
    return None if hidden_from not in (None, execution.user_id) else execution.graph.submitted


def user_of(request: Request) -> User:
    """The authenticated user; the permission class guarantees one."""
    assert isinstance(request.user, User)  # noqa: S101
    return request.user


def accepted_body(accepted: submission.Accepted, request: Request, **more: Any) -> dict[str, Any]:
    """The response to a submission, with the fields of `more`.

    The position is omitted if the request waits for the end, as its response is then replaced.
    """
    waits = stream_views.seconds_to_wait(request._request) > 0
    shown = {
        "execution_id": accepted.execution.id,
        "status": Status.PENDING,
        "created_at": accepted.execution.created_at,
        "estimated_duration": accepted.estimated_seconds,
        "queue_position": None if waits else accepted.queue_position,
        **more,
    }
    return shown | ({"note": accepted.note} if accepted.note else {})
