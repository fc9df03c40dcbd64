"""The endpoints under /v1. They parse the request and queue it; the event loop waits for the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import HttpResponse, QueryDict
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import credentials
from accounts.models import User
from apps_catalog import running
from comfyserve.api import addresses
from comfyserve.api.errors import ValidationFailed
from comfyserve.api.validation import checked
from workflows.api.views import user_of
from workflows.presentation import batch_selectors
from workflows.streaming import asgi

from . import answers, models, parameters, partial_images, uploads
from .parameters import ImagesSerializer


class ModelsView(APIView):
    """The apps that the user may run."""

    schema = None  # OpenAI's interface, documented by OpenAI

    def get(self, request: Request) -> Response:
        return Response({"object": "list", "data": models.listed(user=user_of(request))})


class ModelView(APIView):
    schema = None

    def get(self, request: Request, app: str) -> Response:
        return Response(models.described(app, models.find(user=user_of(request), name=app).app))


class GenerationsView(APIView):
    schema = None

    def post(self, request: Request) -> Response:
        if not isinstance(request.data, dict):
            raise ValidationFailed.of("body", "The body must be an object", "INVALID_TYPE")
        return _images(request, dict(request.data), event="image_generation")


class EditsView(APIView):
    schema = None
    parser_classes = [MultiPartParser]

    def post(self, request: Request) -> Response:
        images = [*request.FILES.getlist("image"), *request.FILES.getlist("image[]")]
        if not images:
            raise ValidationFailed.of("image", "Field 'image' is required", "REQUIRED_FIELD")
        assert isinstance(request.data, QueryDict)  # noqa: S101  (all that the parser returns)
        given = {name: value for name, value in request.data.items() if name not in request.FILES}
        return _images(request, given, images=images, mask=request.FILES.get("mask"), event="image_edit")


def _images(
    request: Request,
    sent: dict[str, Any],
    *,
    event: str,
    images: Sequence[uploads.Upload] = (),
    mask: uploads.Upload | None = None,
) -> Response:
    user = user_of(request)
    fields = ImagesSerializer().fields
    given = checked(ImagesSerializer, {name: value for name, value in sent.items() if name in fields})
    extra = {name: value for name, value in sent.items() if name not in fields}
    found = models.find(user=user, name=given["model"])
    if len(images) > parameters.MAX_IMAGES:
        raise ValidationFailed.of("image", f"At most {parameters.MAX_IMAGES} images")
    runs = parameters.values_of(
        found.inputs,
        given,
        extra,
        images=[uploads.stored(image, user, "image")[0] for image in images],
        mask=uploads.stored(mask, user, "mask")[0] if mask else None,
    )
    address = f"{found.app.address}@{found.version.number}"
    ids = _submitted(user, address, runs, given)
    return _waiting(request, ids, given, event)


def _submitted(
    user: User, address: str, runs: list[dict[str, Any]], given: dict[str, Any]
) -> tuple[UUID, ...]:
    """The worker converts the images once, whether they are requested as bytes or as URLs."""
    metadata = {"user": given["user"]} if given["user"] else {}
    output = parameters.output_of(given)
    if len(runs) == 1:
        run = running.run(user=user, app=address, inputs=runs[0], output=output, metadata=metadata)
        return (run.accepted.execution.id,)
    batch = running.run_many(user=user, app=address, inputs=runs, output=output, metadata=metadata)
    return tuple(batch_selectors.executions_of(batch).values_list("id", flat=True))


def _waiting(request: Request, ids: tuple[UUID, ...], given: dict[str, Any], event: str) -> Response:
    """The response is sent when the executions have ended; its body is filled in then."""
    model, names = given["model"], ("size", "quality", "background")
    wanted = answers.ImageOptions(
        as_url=(given["response_format"] or ("url" if model.startswith("dall-e") else "b64_json")) == "url",
        event=event if given["stream"] else None,
        base=addresses.base_of(request._request),
        about={name: given[name] or "auto" for name in names},
    )
    if given["stream"] and given["partial_images"]:
        return _streaming(request, ids, wanted, most=given["partial_images"])
    response = Response({"data": []})
    asgi.attach(response, _wait(request, ids, response, wanted, shown=lambda filled: bytes(filled.content)))
    return response


def _streaming(
    request: Request, ids: tuple[UUID, ...], wanted: answers.ImageOptions, *, most: int
) -> Response:
    """Starts at once with previews, so a later error is an event and not a status code."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = Response({}, content_type=answers.EVENT_STREAM, headers=headers)
    wait = _wait(request, ids, HttpResponse(), wanted, shown=answers.as_event)
    encode = partial_images.Partial(wanted, most=most).encode
    asgi.attach(response, asgi.Previews(user_of(request).pk, wait, encode))
    return response


def _wait(
    request: Request,
    ids: tuple[UUID, ...],
    response: HttpResponse,
    wanted: answers.ImageOptions,
    *,
    shown: Callable[[HttpResponse], bytes],
) -> asgi.Wait:
    """Fills `response` when the executions have ended; `shown` renders it for the client."""

    def result() -> bytes:
        answers.set_error(response, 503, "The result cannot be read now")  # replaced if `fill` succeeds
        del response[answers.NO_RETRY]
        answers.fill(response, ids, wanted)
        return shown(response)

    def refusal() -> bytes:
        answers.set_error(response, 401, asgi.REVOKED)
        return shown(response)

    credential = credentials.of_request(request._request, user_id=user_of(request).pk)
    return asgi.Wait(ids, settings.OPENAI_WAIT_SECONDS, result, credential, refusal)
