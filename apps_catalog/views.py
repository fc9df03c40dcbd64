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
from workflows.api.serializers import BatchOptions, PageQuery
from workflows.api.views import SubmittingView, accepted_body, user_of, wanted_webhook
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
    """The apps that the user may run, and new ones."""

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

        Inputs and outputs that are left out are those of the editor's app mode (`extra.linearData`), else
        what a person would expect: prompts, loaded files, seed, size, steps, and nodes with a title.
        """
        user = user_of(request)
        given = checked(AppSerializer, request.data)
        return Response(
            representations.app(catalog.create(user=user, **given), user=user, whole=True), status=201
        )


class AppView(APIView):
    """One app: see, change or delete it."""

    @describe(None, AppInfoSerializer)
    def get(self, request: Request, app: str) -> Response:
        """Get App: by `name` (your own), `owner/name`, or either with `@version`."""
        user = user_of(request)
        return Response(representations.app(catalog.find(user=user, address=app), user=user, whole=True))

    @describe(ChangeAppSerializer, AppInfoSerializer)
    def patch(self, request: Request, app: str) -> Response:
        """Change App: another workflow, other inputs or outputs make a new version; old ones stay."""
        user = user_of(request)
        catalog.find_own(user=user, address=app)
        changes = checked(ChangeAppSerializer, request.data)
        found = catalog.change(user=user, address=app, changes=changes)
        return Response(representations.app(found, user=user, whole=True))

    @describe(None, DoneSerializer)
    def delete(self, request: Request, app: str) -> Response:
        """Delete App: with all its versions; what was made with it stays."""
        catalog.delete(user=user_of(request), address=app)
        return Response({"message": "App deleted successfully"})


class SchemaView(APIView):
    """What a run of it takes."""

    @describe(None, AppSchemaSerializer)
    def get(self, request: Request, app: str) -> Response:
        """Get App Schema: JSON Schema of its inputs, with the choices that the workers have now."""
        user = user_of(request)
        return Response(representations.schema(catalog.find(user=user, address=app), user=user))


class VersionsView(APIView):
    """All its versions."""

    @describe(None, VersionSerializer(many=True), parameters=[PageQuery])
    def get(self, request: Request, app: str) -> Response:
        """List App Versions: the newest first."""
        query = checked(PageQuery, request.query_params)
        user = user_of(request)
        found = catalog.find(user=user, address=app)
        rows = AppVersion.objects.filter(app=found.app).defer("workflow", "prompt").order_by("-number")
        page = rows[query["offset"] : query["offset"] + query["limit"]]
        shown = [representations.version(found.app, each, user=user) for each in page]
        return Response(shown, headers=paging.count_headers(rows))


class RunView(SubmittingView):
    """Run it."""

    @stream_views.waits
    @idempotent
    @describe(RunSerializer, AppRunSerializer, parameters=[stream_views.PREFER])
    def post(self, request: Request, app: str) -> Response:
        """Run App: with values for its inputs; answers as `/workflows/execute` does.

        An input that is left out has its default; a seed that is left out is drawn, and told in the answer.
        With `Prefer: wait=30` the answer waits up to that long, and is the result if it has ended by then.
        """
        user = user_of(request)
        catalog.find(user=user, address=app)  # before what is wrong with the body is told
        given = checked(RunSerializer, request.data)
        webhook = wanted_webhook(given, request._request)
        given["output"] = plan.kept(given["output"], user=user)
        return Response(run_body(running.run(user=user, app=app, webhook=webhook, **given), request))


class BatchView(APIView):
    """Run it many times."""

    @idempotent
    @describe(BatchOptions, BatchInfoSerializer)
    def post(self, request: Request, app: str) -> Response:
        """Run App in Batch: with many sets of values, as a list or a grid, all of them or none."""
        user = user_of(request)
        catalog.find(user=user, address=app)
        given = checked(BatchOptions, request.data)
        options = batch_options(given, request)
        values, path = batches.values_of(inputs=given.get("inputs"), grid=given.get("grid"))
        batch = running.run_many(user=user, app=app, inputs=values, path=path, **options)
        return Response(batch_body(batch))


def run_body(run: running.Run, request: Request) -> dict[str, Any]:
    """What the submission of a run is answered."""
    return accepted_body(
        run.accepted, request, app=run.found.app.address, version=run.found.version.number, inputs=run.inputs
    )
