"""Uploads and results: the user's own files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from rest_framework.request import Request

from accounts import authentication
from accounts.models import User
from comfyserve.api.errors import NotFound, ValidationFailed
from comfyserve.api.rendering import rendered
from comfyserve.db import connections
from files import decoding, queries, storing, transfer, uploads
from files.conversion import ConversionOptions
from files.incoming import Incoming
from files.models import File, Kind
from files.threads import in_request_thread, in_thread
from files.views import by_method

from .errors import FORMAT, ComfyUIView

# Form fields and their maximum lengths. ComfyUI's folder fields are accepted and ignored.
FIELDS = {"type": 20, "subfolder": 500, "overwrite": 10, "original_ref": 2000}
PREVIEW_QUALITY = 90  # as ComfyUI makes them
TYPES = ("input", "output", "temp")
ANNOTATED = re.compile(r"\s*\[(input|output|temp)\]$")
# How ComfyUI's editor writes a file of ours into a prompt: behind a folder, before a type, or both.
IN_PROMPT = re.compile(r"(?:[^/\n]+/){0,9}(file_[0-9a-f]{32})(?:/[^/\n]+)?(?:\s*\[(?:input|output|temp)\])?")
HASHED = "blake3:"
Store = Callable[[Incoming, uploads.Form, User], File]


class UploadView(ComfyUIView):
    def post(self, request: Request) -> None:
        """Handled by `upload` or `mask`, which parse the form as it is received."""


class ViewView(ComfyUIView):
    def get(self, request: Request) -> None:
        """Handled by `view`."""


# -- uploads ---------------------------------------------------------------------------------------------
@FORMAT.applied_to
async def _upload(request: HttpRequest) -> HttpResponseBase:
    """Returns the file's id as its name; LoadImage and similar nodes accept it."""
    return await _receive(request, store=_store)


@FORMAT.applied_to
async def _mask(request: HttpRequest) -> HttpResponseBase:
    """Stores the picture that `original_ref` names, with the transparency of the uploaded one."""
    return await _receive(request, store=_store_masked)


async def _receive(request: HttpRequest, *, store: Store) -> HttpResponseBase:
    user = await in_request_thread(authentication.require, request)
    incoming = Incoming()
    try:
        form = await uploads.receive(request, incoming, allowed=FIELDS, file_field="image")
        file = await in_request_thread(store, incoming, form, user)
    finally:
        await in_thread(incoming.close)
    shown = {"name": file.id, "subfolder": "", "type": "input"}
    return HttpResponse(rendered(shown), content_type="application/json")


def _store(incoming: Incoming, form: uploads.Form, user: User) -> File:
    return storing.accept(incoming, user=user, filename=form.filename or "")


def _store_masked(mask: Incoming, form: uploads.Form, user: User) -> File:
    original = _lookup(_reference(form.fields.get("original_ref")), user)
    connections.release()
    with Incoming() as source, Incoming() as made:
        storing.read_into(source, original.key)
        try:
            done = decoding.with_alpha_of(source.path, mask.path, made.path)
        except decoding.Undecodable as exc:
            raise ValidationFailed.of("image", str(exc), "UNDECODABLE") from exc
        if not done:
            raise ValidationFailed.of("image", "The mask and its original must be pictures of the same size")
        made.adopt()
        return storing.accept(made, user=user, filename=form.filename or "")


def _reference(text: str | None) -> dict[str, str]:
    """`original_ref`: an object with `filename`, and perhaps `subfolder` and `type`."""
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not found.get("filename"):
        raise ValidationFailed.of("original_ref", "It must be a JSON object with the original's 'filename'")
    return {name: value for name, value in found.items() if isinstance(value, str)}


# -- results ---------------------------------------------------------------------------------------------
@FORMAT.applied_to
async def _view(request: HttpRequest) -> HttpResponseBase:
    """The file; with `preview` or `channel` a picture of its contents."""
    file = await in_request_thread(_find, request)
    wanted = _wanted(request.GET, file)
    return await transfer.serve_file(request, transfer.Requested(file, wanted))


def _wanted(query: Mapping[str, str], file: File) -> ConversionOptions:
    """Empty unless the file is an image; ComfyUI fails for anything else."""
    channel, preview = query.get("channel", ""), query.get("preview")
    if not file.content_type.startswith("image/"):
        return ConversionOptions()
    if preview is None:
        return (
            ConversionOptions(format="png", channel=channel, strip=True)
            if channel in ("rgb", "a")
            else ConversionOptions()
        )
    name, quality = preview.partition(";")[0], preview.rpartition(";")[2]
    is_number = quality.isascii() and quality.isdigit() and 1 <= int(quality[:4]) <= 100
    as_jpeg = name == "jpeg" and "a" not in channel
    return ConversionOptions(
        format="jpeg" if as_jpeg else "webp",
        quality=int(quality) if is_number else PREVIEW_QUALITY,
        channel="rgb" if as_jpeg or channel == "rgb" else None,
        strip=True,
    )


def _find(request: HttpRequest) -> File:
    return _lookup(request.GET, authentication.require(request))


def _lookup(query: Mapping[str, str], user: User) -> File:
    """By the id, which is an output's subfolder and an upload's name; by `blake3:…`; else the newest of that
    name and type."""
    name = query.get("filename", "")
    annotated = ANNOTATED.search(name)
    name = name[: annotated.start()] if annotated else name
    for file_id in (query.get("subfolder", ""), name.rpartition("/")[2]):
        if file_id.startswith("file_"):
            return queries.file_of(file_id=file_id, user=user)
    if name.startswith(HASHED):
        found = queries.with_blake3(user=user, blake3=name.removeprefix(HASHED))
    else:
        found = _newest(user, name, annotated[1] if annotated else query.get("type", "output"))
    if found is None:
        raise NotFound(f"There is no file {name[:100]}")
    return found


def _newest(user: User, name: str, kind: str) -> File | None:
    if kind not in TYPES:
        raise ValidationFailed.of("type", f"It must be one of {', '.join(TYPES)}")
    files = queries.files_of(user=user, kind=Kind.UPLOAD if kind == "input" else Kind.OUTPUT)
    if kind != "input":
        files = files.filter(outputs__temporary=kind == "temp")
    return files.filter(filename=name).first() if name else None


def with_file_ids(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt with each name of an upload or result replaced by its file_id."""
    return {node_id: _with_file_ids(node) for node_id, node in prompt.items()}


def _with_file_ids(node: Any) -> Any:
    inputs = node.get("inputs") if isinstance(node, dict) else None
    if not isinstance(inputs, dict):
        return node  # the submission reports it
    return {**node, "inputs": {name: _file_id(value) for name, value in inputs.items()}}


def _file_id(value: Any) -> Any:
    found = IN_PROMPT.fullmatch(value) if isinstance(value, str) else None
    return found[1] if found else value


upload: Any = by_method(UploadView, post=_upload)
mask: Any = by_method(UploadView, post=_mask)
view: Any = by_method(ViewView, get=_view, head=_view)
