"""The REST endpoints of batches: parse, call one function, render."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.idempotent_views import idempotent
from comfyserve.api import paging
from comfyserve.api.schema import describe
from comfyserve.api.validation import checked
from workflows.delivery import plan
from workflows.models import Batch
from workflows.presentation import batch_selectors
from workflows.queue import batches
from workflows.queue.submission import Options

from . import contact_sheet
from .batch_schemas import BatchDetailSerializer, BatchInfoSerializer, CountSerializer
from .serializers import BatchSerializer, PageQuery
from .views import requested_webhook, user_of


class SubmitView(APIView):
    """Run a workflow many times."""

    @idempotent
    @describe(BatchSerializer, BatchInfoSerializer)
    def post(self, request: Request) -> Response:
        """Execute Batch: submit a workflow with many sets of values, all of them or none.

        A value's name is `<node>.<input>`, such as `3.seed`. `inputs` lists the sets, `grid` combines lists.
        The webhook receives `batch.completed` when the last execution has ended.
        """
        given = checked(BatchSerializer, request.data)
        workflow, options = given.pop("workflow"), batch_options(given, request)
        user = user_of(request)
        values, path = batches.values_of(inputs=given.get("inputs"), grid=given.get("grid"))
        works = batches.works_of(workflow, values, user=user, path=path)
        return Response(batch_body(batches.submit(user=user, works=works, **options)))


def batch_options(given: dict[str, Any], request: Request) -> dict[str, Any]:
    """What `batches.submit` takes besides the workflow."""
    webhook = requested_webhook(given, request._request)
    given["output"] = plan.kept(given["output"], user=user_of(request), many=True)
    # Each of its executions would carry a copy of the metadata.
    names = {*Options.__annotations__, "output"} - {"metadata_text"}
    return {**{name: given[name] for name in names & given.keys()}, "webhook": webhook}


def batch_body(batch: Batch) -> dict[str, Any]:
    return batch_selectors.shown([batch])[0]


class ListView(APIView):
    """The user's batches."""

    @describe(None, BatchInfoSerializer(many=True), parameters=[PageQuery])
    def get(self, request: Request) -> Response:
        """List Batches: your own, latest first."""
        query = checked(PageQuery, request.query_params)
        rows = batch_selectors.batches_of(user_of(request))
        page = list(paging.page(rows, **query))
        return Response(batch_selectors.shown(page), headers=paging.count_headers(rows))


class BatchView(APIView):
    """One batch."""

    @describe(None, BatchDetailSerializer, parameters=[PageQuery])
    def get(self, request: Request, batch_id: str) -> Response:
        """Get Batch: its progress, and a page of its executions in their order."""
        query = checked(PageQuery, request.query_params)
        batch = batch_selectors.batch_of(user=user_of(request), batch_id=batch_id)
        rows = batch_selectors.executions_of(batch)[query["offset"] : query["offset"] + query["limit"]]
        return Response({**batch_body(batch), "executions": batch_selectors.members(rows)})


class CancelView(APIView):
    """Cancel the remaining executions."""

    @describe(None, CountSerializer, errors=(409,))
    def post(self, request: Request, batch_id: str) -> Response:
        """Cancel Batch: cancel all executions that have not ended."""
        batch = batch_selectors.batch_of(user=user_of(request), batch_id=batch_id)
        return Response({"count": batches.cancel(batch)})


class RetryView(APIView):
    """Retry the failed executions."""

    @idempotent
    @describe(None, CountSerializer, errors=(409,))
    def post(self, request: Request, batch_id: str) -> Response:
        """Retry Batch: submit failed and cancelled executions again, in the same place in the batch."""
        user = user_of(request)
        batch = batch_selectors.batch_of(user=user, batch_id=batch_id)
        return Response({"count": batches.retry(batch, user=user)})


class ContactSheetView(APIView):
    """A contact sheet of all images."""

    @describe(None, {(200, "image/jpeg"): OpenApiTypes.BINARY}, parameters=[PageQuery])
    def get(self, request: Request, batch_id: str) -> HttpResponse:
        """Get Contact Sheet: one image (JPEG) with the first image of each execution of a batch.

        In batch order, numbered by position; an execution without an image is an empty field.
        """
        query = checked(PageQuery, request.query_params)
        batch = batch_selectors.batch_of(user=user_of(request), batch_id=batch_id)
        rows = list(batch_selectors.executions_of(batch)[query["offset"] : query["offset"] + query["limit"]])
        sheet = contact_sheet.made(rows)
        return HttpResponse(sheet, content_type="image/jpeg", headers={"Cache-Control": "private, no-cache"})
