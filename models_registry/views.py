"""The endpoints under /models/."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.authentication import AuthenticatedRequest
from accounts.models import User
from comfyserve.api.errors import Forbidden
from comfyserve.api.schema import describe
from comfyserve.api.validation import checked

from . import commands, downloads, queries, representations
from . import serializers as shapes

NAME = OpenApiParameter(
    "model_name", str, OpenApiParameter.PATH, description="The model's name, with its subfolders"
)

DONE_OR_LATER = dict.fromkeys((200, 202), shapes.ModelDoneSerializer)
CLEANED_OR_LATER = dict.fromkeys((200, 202), shapes.ModelsCleanedSerializer)


class ManagementView(APIView):
    """Requires permission to change models on disk and in memory, as MODEL_MANAGEMENT defines."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if settings.MODEL_MANAGEMENT == "staff" and not downloads.is_operator(request.user):
            raise Forbidden("Only operators may manage models here")


class ListView(APIView):
    @describe(None, shapes.ModelListSerializer, parameters=[shapes.ListQuery], operation_id="models_list")
    def get(self, request: Request) -> Response:
        """List Models: those of all workers, and those being downloaded."""
        found = queries.listing(**checked(shapes.ListQuery, request.query_params))
        return Response(representations.listing(found), headers={"X-Total-Count": str(len(found.entries))})


class StatusView(APIView):
    @describe(None, shapes.ModelStatusSerializer, parameters=[NAME, shapes.TypeQuery])
    def get(self, request: Request, model_name: str) -> Response:
        """Get Model Status: the file, its header's metadata, and which workers have it in memory."""
        model = queries.model_of(name=model_name, **checked(shapes.TypeQuery, request.query_params))
        return Response(representations.status(queries.entry_of(model)))


class LoadView(ManagementView):
    @describe(
        None,
        DONE_OR_LATER,
        parameters=[NAME, shapes.LoadQuery],
        errors=(403, 422, 503),
    )
    def post(self, request: Request, model_name: str) -> Response:
        """Load Model: into memory, without running a workflow, after the running execution.

        If the GPU stays busy for some seconds, the response is 202, and the model is loaded later.
        """
        query = checked(shapes.LoadQuery, request.query_params)
        model = queries.model_of(name=model_name, model_type=query["model_type"])
        done = commands.load(model=model, worker=query.get("worker"))
        loaded = sum(answer.get("loaded_bytes", 0) for answer in done.answers.values())
        shown = {
            "message": "Model loaded successfully",
            "model_name": model.name,
            "model_type": model.type,
            "workers": sorted(done.answers),
            **({"memory_usage_mb": representations.megabytes(loaded)} if loaded else {}),
        }
        return _answer(done, shown, look=f"/models/{model.name}")


class UnloadView(ManagementView):
    @describe(
        None,
        DONE_OR_LATER,
        parameters=[NAME, shapes.UnloadQuery],
        errors=(403, 503),
    )
    def post(self, request: Request, model_name: str) -> Response:
        """Unload Model: from the memory of all workers, or of one. A running execution is not affected.

        If it runs for longer than some seconds, the response is 202, and the model is unloaded later.
        """
        query = checked(shapes.UnloadQuery, request.query_params)
        model = queries.model_of(name=model_name, model_type=query.get("model_type"))
        done = commands.unload(model=model, worker=query.get("worker"), keep_in_ram=query["keep_in_ram"])
        shown = {
            "message": "Model unloaded successfully",
            "model_name": model.name,
            "model_type": model.type,
            "workers": sorted(done.answers),
        }
        return _answer(done, shown, look=f"/models/{model.name}")


class CleanupView(ManagementView):
    @describe(
        None,
        CLEANED_OR_LATER,
        parameters=[shapes.CleanupQuery],
        errors=(403, 503),
    )
    def post(self, request: Request) -> Response:
        """Cleanup Unused Models: unload the models that were neither used nor loaded for so many hours.

        If the GPU stays busy for some seconds, the response is 202, and they are unloaded later.
        """
        query = checked(shapes.CleanupQuery, request.query_params)
        done = commands.cleanup(max_age_hours=query["max_age_hours"], worker=query.get("worker"))
        unloaded = {name for answer in done.answers.values() for name in answer.get("unloaded", [])}
        shown = {"message": "Cleanup completed", "models_unloaded": sorted(unloaded)}
        return _answer(done, shown, look="/models/")


class DownloadView(ManagementView):
    @describe(
        None, shapes.ModelDoneSerializer, parameters=[NAME, shapes.DownloadQuery], errors=(403, 409, 429, 503)
    )
    def post(self, request: AuthenticatedRequest, model_name: str) -> Response:
        """Download Model: from a public URL to all workers that lack it.

        An active download of the same name is joined. Formats that can run code are rejected
        unless the operator allows them.
        """
        model, hosts = downloads.start(
            user=request.user, name=model_name, **checked(shapes.DownloadQuery, request.query_params)
        )
        return Response(
            {
                "message": "Model download started",
                "model_name": model.name,
                "model_type": model.type,
                "workers": hosts,
            }
        )

    @describe(None, shapes.ModelDoneSerializer, parameters=[NAME, shapes.TypeQuery], errors=(403,))
    def delete(self, request: Request, model_name: str) -> Response:
        """Cancel Download: the partial files are deleted."""
        assert isinstance(request.user, User)  # noqa: S101  (the permission class has seen to it)
        model = downloads.cancel(
            name=model_name,
            model_type=checked(shapes.TypeQuery, request.query_params).get("model_type"),
            only_of=None if downloads.is_operator(request.user) else request.user,
        )
        return Response({"message": "Model download cancelled", "model_name": model.name})


class ProgressView(APIView):
    @describe(None, shapes.DownloadProgressSerializer, parameters=[NAME, shapes.TypeQuery])
    def get(self, request: Request, model_name: str) -> Response:
        """Get Download Progress: of the active download, or the result of the last one."""
        query = checked(shapes.TypeQuery, request.query_params)
        model, latest, is_available = downloads.latest(name=model_name, model_type=query.get("model_type"))
        return Response(representations.progress(model, latest, is_available=is_available))


def _answer(done: commands.Done, shown: dict[str, Any], *, look: str) -> Response:
    """200, or 202 while some worker has not finished; then `Location` shows the outcome."""
    if not done.waiting:
        return Response(shown | _note(done))
    note = "; ".join([*done.notes, f"GET {look} shows when it is done"])
    later = {"message": commands.LATER, "waiting_for": list(done.waiting), "note": note}
    return Response(shown | later, status=202, headers={"Location": look, "Retry-After": "10"})


def _note(done: commands.Done) -> dict[str, str]:
    return {"note": "; ".join(done.notes)} if done.notes else {}
