"""Uploads and results: the user's own files."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from rest_framework.request import Request

from accounts import authentication
from comfyserve.api.errors import ApiError, NotFound, as_api_error
from comfyserve.api.rendering import rendered
from files import queries, storing, transfer, uploads
from files.conversion import Wanted
from files.incoming import Incoming
from files.models import File
from files.threads import in_request_thread, in_thread
from files.views import by_method

from .errors import ComfyUIView, body

# Form fields and their maximum lengths. ComfyUI's folder fields are accepted and ignored.
FIELDS = {"type": 20, "subfolder": 500, "overwrite": 10, "original_ref": 2000}
PREVIEWS, PREVIEW_QUALITY = ("webp", "jpeg"), 90  # as ComfyUI makes them


class UploadView(ComfyUIView):
    def post(self, request: Request) -> None:
        """Handled by `upload`, which parses the form as it is received."""


class ViewView(ComfyUIView):
    def get(self, request: Request) -> None:
        """Handled by `view`."""


async def _upload(request: HttpRequest) -> HttpResponseBase:
    """The returned name is the file's id, which LoadImage and similar nodes accept."""
    try:
        user = await in_request_thread(authentication.require, request)
        incoming = await in_thread(Incoming)
        try:
            form = await uploads.receive(request, incoming, allowed=FIELDS, file_field="image")
            file = await in_request_thread(storing.accept, incoming, user=user, filename=form.filename or "")
        finally:
            await in_thread(incoming.close)
    except Exception as exc:  # noqa: BLE001  (raised again where it is none of ours)
        return _refusal(exc)
    shown = {"name": file.id, "subfolder": "", "type": "input"}
    return HttpResponse(rendered(shown), content_type="application/json")


async def _view(request: HttpRequest) -> HttpResponseBase:
    """The file; with `preview=webp;80` or `preview=jpeg` a picture in that format."""
    try:
        file = await in_request_thread(_find, request)
        wanted = _preview(request.GET.get("preview"), file)
        return await transfer.serve_file(request, transfer.Requested(file, wanted))
    except Exception as exc:  # noqa: BLE001  (raised again where it is none of ours)
        return _refusal(exc)


def _preview(text: str | None, file: File) -> Wanted:
    """Empty for what is no picture: ComfyUI would fail there."""
    if not text or not file.content_type.startswith("image/"):
        return Wanted()
    format_, _, quality = text.partition(";")
    is_number = quality.isascii() and quality.isdigit() and 1 <= int(quality[:4]) <= 100
    return Wanted(
        format=format_ if format_ in PREVIEWS else "webp",
        quality=int(quality) if is_number else PREVIEW_QUALITY,
    )


def _find(request: HttpRequest) -> File:
    """By the id, which is an output's subfolder and an upload's name; else the newest of that name."""
    user = authentication.require(request)
    name = request.GET.get("filename", "")
    for file_id in (request.GET.get("subfolder", ""), name):
        if file_id.startswith("file_"):
            return queries.file_of(file_id=file_id, user=user)
    found = queries.files_of(user=user).filter(filename=name).first()
    if found is None:
        raise NotFound(f"There is no file {name[:100]}")
    return found


def _refusal(exc: Exception) -> HttpResponse:
    known: ApiError | None = as_api_error(exc)
    if known is None:
        raise exc
    return HttpResponse(
        rendered(body(known)),
        status=known.status,
        content_type="application/json",
        headers=dict(known.headers),
    )


upload: Any = by_method(UploadView, post=_upload)
view: Any = by_method(ViewView, get=_view, head=_view)
