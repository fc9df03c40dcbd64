"""The endpoints under /apps/: parse, call one function, render."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.idempotent_views import idempotent
from comfyserve.api import paging
from comfyserve.api.schema import describe
from comfyserve.api.validation import checked
from workflows.api import stream_views
from workflows.api.batch_schemas import BatchInfoSerializer
from workflows.api.batch_views import batch_body, batch_options
from workflows.api.serializers import BatchOptions, PageQuery, SubmissionQuery
from workflows.api.views import SubmittingView, accepted_body, requested_webhook, user_of
from workflows.delivery import plan
from workflows.presentation.schemas import DoneSerializer
from workflows.queue import batches

from . import catalog, representations, running
from .models import AppVersion
from .serializers import (
    AppInfoSerializer,
    AppRunSerializer,
    AppSchemaSerializer,
    AppSerializer,
    ChangeAppSerializer,
    RunSerializer,
    VersionSerializer,
)


class ListView(APIView):
    """List the apps that the user may run, or save a new one."""

    @describe(None, AppInfoSerializer(many=True), parameters=[PageQuery])
    def get(self, request: Request) -> Response:
        """List Apps: those that you may run, latest first."""
        query = checked(PageQuery, request.query_params)
        user = user_of(request)
        rows = catalog.visible_to(user).order_by("-created_at", "-id")
        page = list(
            paging.page(rows, limit=query["limit"], offset=query["offset"]).select_related("owner", "group")
        )
        versions = catalog.newest(page)
        shown = [
            representations.app(catalog.Found(row, versions[row.id]), user=user)
            for row in page
            if row.id in versions
        ]
        return Response(shown, headers=paging.count_headers(rows))

    @idempotent
    @describe(AppSerializer, {201: AppInfoSerializer}, errors=(409,))
    def post(self, request: Request) -> Response:
        """Save App: a workflow under a name, with typed inputs and named outputs.

        Inputs and outputs that are omitted are those of the editor's app mode (`extra.linearData`), else
        inferred: prompts, loaded files, seed, size, steps, and nodes with a title.
        """
        user = user_of(request)
        given = checked(AppSerializer, request.data)
        return Response(
            representations.app(catalog.create(user=user, **given), user=user, whole=True), status=201
        )


class AppView(APIView):
    """One app: get, change or delete it."""

    @describe(None, AppInfoSerializer)
    def get(self, request: Request, app: str) -> Response:
        """Get App: by `name` (your own), `owner/name`, or either with `@version`."""
        user = user_of(request)
        return Response(representations.app(catalog.find(user=user, address=app), user=user, whole=True))

    @describe(ChangeAppSerializer, AppInfoSerializer)
    def patch(self, request: Request, app: str) -> Response:
        """Change App: another workflow, other inputs or outputs make a new version; earlier ones stay."""
        user = user_of(request)
        catalog.find_own(user=user, address=app)
        changes = checked(ChangeAppSerializer, request.data)
        found = catalog.change(user=user, address=app, changes=changes)
        return Response(representations.app(found, user=user, whole=True))

    @describe(None, DoneSerializer)
    def delete(self, request: Request, app: str) -> Response:
        """Delete App: delete it with all its versions; its executions and their results stay."""
        catalog.delete(user=user_of(request), address=app)
        return Response({"message": "App deleted successfully"})


class SchemaView(APIView):
    """The inputs of a run."""

    @describe(None, AppSchemaSerializer)
    def get(self, request: Request, app: str) -> Response:
        """Get App Schema: JSON Schema of its inputs, with the choices that the workers currently have."""
        user = user_of(request)
        return Response(representations.schema(catalog.find(user=user, address=app), user=user))


class VersionsView(APIView):
    """All its versions."""

    @describe(None, VersionSerializer(many=True), parameters=[PageQuery])
    def get(self, request: Request, app: str) -> Response:
        """List App Versions: all versions, newest first."""
        query = checked(PageQuery, request.query_params)
        user = user_of(request)
        found = catalog.find(user=user, address=app)
        rows = AppVersion.objects.filter(app=found.app).defer("workflow", "prompt").order_by("-number")
        page = rows[query["offset"] : query["offset"] + query["limit"]]
        shown = [representations.version(found.app, each, user=user) for each in page]
        return Response(shown, headers=paging.count_headers(rows))


class RunView(SubmittingView):
    """Run it."""

    content_negotiation_class = stream_views.JsonOrEvents

    @stream_views.waits
    @idempotent
    @describe(
        RunSerializer,
        {200: AppRunSerializer, **stream_views.STREAM},
        parameters=[stream_views.PREFER, SubmissionQuery],
    )
    def post(self, request: Request, app: str) -> Response:
        """Run App: run it with values for its inputs; the response is that of `/workflows/execute`.

        An omitted input gets its default; an omitted seed is drawn at random and included in the response.
        With `Prefer: wait=30` the response is held for up to that long, and is the result if the execution
        has ended by then. With `Accept: text/event-stream` it is the live stream.
        """
        user = user_of(request)
        catalog.find(user=user, address=app)  # before errors in the body are reported
        given = checked(RunSerializer, request.data)
        webhook = requested_webhook(given, request._request)
        given["output"] = plan.kept(given["output"], user=user)
        return Response(run_body(running.run(user=user, app=app, webhook=webhook, **given), request))


class BatchView(APIView):
    """Run it many times."""

    @idempotent
    @describe(BatchOptions, BatchInfoSerializer)
    def post(self, request: Request, app: str) -> Response:
        """Run App in Batch: run it with many sets of values, as a list or a grid, all of them or none."""
        user = user_of(request)
        catalog.find(user=user, address=app)
        given = checked(BatchOptions, request.data)
        options = batch_options(given, request)
        values, path = batches.values_of(inputs=given.get("inputs"), grid=given.get("grid"))
        batch = running.run_many(user=user, app=app, inputs=values, path=path, **options)
        return Response(batch_body(batch))


def run_body(run: running.Run, request: Request) -> dict[str, Any]:
    """The response to a submitted run."""
    return accepted_body(
        run.accepted, request, app=run.found.app.address, version=run.found.version.number, inputs=run.inputs
    )
