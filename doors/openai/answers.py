"""The response to a request whose executions have ended or whose time limit has been reached."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.http import HttpResponse

from comfyserve.api.errors import ApiError
from files import converted, links, storing
from files.models import ConvertedFile, File
from workflows.models import TERMINAL, Execution, Status
from workflows.presentation import selectors
from workflows.queue import state_machine

from . import errors

MAX_BYTES = 64 * 1024 * 1024  # of images in one response; larger ones must be requested as URLs
EVENT_STREAM = "text/event-stream"
# OpenAI's clients expect it; ComfyServe does not count tokens.
USAGE = {"usage": {
    "input_tokens": 0, "output_tokens": 0, "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}}  # fmt: skip
NO_RETRY = "x-should-retry"  # OpenAI's clients retry a 5xx, and each retry would be another execution


@dataclass(frozen=True)
class ImageOptions:
    """How to return the images. `event`: the prefix of the event names of a stream, else None; `about`: the
    request parameters that each event repeats."""

    as_url: bool
    event: str | None
    base: str
    about: Mapping[str, str]


def fill(response: HttpResponse, ids: Sequence[UUID], wanted: ImageOptions) -> None:
    """Put the images or the error into the response. Executions that have not ended are cancelled: no
    client could fetch their result.
    """
    try:
        executions = [found for id_ in ids if (found := selectors.by_id(id_)) is not None]
        failure = _failure(executions, ids)
        if failure is None:
            _set_images(response, executions, wanted)
    except ApiError as exc:
        failure = exc.status, exc.message
    if failure is not None:
        set_error(response, *failure)


def set_error(response: HttpResponse, status: int, message: str) -> None:
    response.status_code = status
    response[NO_RETRY] = "false"
    response["Content-Type"] = "application/json"
    response.content = json.dumps(errors.body(status, message)).encode()


def encoded(name: str, event: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **event})}\n\n".encode()


def as_event(response: HttpResponse) -> bytes:
    """The final events of a stream: the images, or the error, since the status code has already been sent."""
    if response["Content-Type"] == EVENT_STREAM:
        return bytes(response.content)
    return b"event: error\ndata: " + bytes(response.content) + b"\n\n"


def _failure(executions: Sequence[Execution], ids: Sequence[UUID]) -> tuple[int, str] | None:
    if len(executions) < len(ids):
        return 404, "The execution was deleted"
    if any(each.status not in TERMINAL for each in executions):
        state_machine.cancel_all(ids, by="the time limit of the request that waited for it")
        return 504, "The images were not ready in time; the executions are cancelled"
    for each in executions:
        if each.status != Status.COMPLETED:
            cancelled = each.status == Status.CANCELLED
            return (
                (409, "The execution was cancelled")
                if cancelled
                else (500, each.error or "The execution failed")
            )
    return None


def _set_images(response: HttpResponse, executions: Sequence[Execution], wanted: ImageOptions) -> None:
    pictures = [picture for each in media_of(executions, "image/").values() for picture in each]
    if not pictures:
        set_error(response, 500, "The app produced no image")
        return
    if not wanted.as_url and sum(each.bytes.size for each in pictures) > MAX_BYTES:
        set_error(response, 413, "The images are too large for one response; use response_format 'url'")
        return
    data = [_image(each, wanted) for each in pictures]
    kind = pictures[0].bytes.content_type.removeprefix("image/")
    about = {"created": int(time.time()), "output_format": kind}
    response.status_code = 200
    if wanted.event:
        response["Content-Type"] = EVENT_STREAM
        response.content = b"".join(
            encoded(
                f"{wanted.event}.completed",
                {"created_at": about["created"], **wanted.about, **about, **_size(picture), **each, **USAGE},
            )
            for picture, each in zip(pictures, data, strict=True)
        )
    else:
        response.content = json.dumps({**about, "data": data}).encode()


@dataclass(frozen=True)
class Media:
    """An output file of the app, and its conversion, if any."""

    file: File
    made: ConvertedFile | None

    @property
    def bytes(self) -> File | ConvertedFile:
        return self.made or self.file


def media_of(executions: Sequence[Execution], kind: str) -> dict[UUID, list[Media]]:
    """Files whose content type begins with `kind`, by execution: those of the app's named outputs, else all;
    previews only if there is nothing else."""
    made = selectors.outputs([each.id for each in executions])
    found: dict[UUID, list[Media]] = {}
    for execution in executions:
        shown = [
            (output, media)
            for output in made[execution.id]
            if output.file is not None
            and (media := Media(output.file, output.converted)).bytes.content_type.startswith(kind)
        ]
        nodes = set((execution.app or {}).get("outputs", {}).values())
        named = [pair for pair in shown if pair[0].node_id in nodes] or shown
        kept = [pair for pair in named if not pair[0].temporary] or named
        found[execution.id] = [media for _, media in kept]
    return found


def link(media: Media, *, base: str) -> str:
    """A signed URL of the converted bytes, else of the original."""
    if media.made is None:
        return links.download_url(media.file, base=base)
    filename = converted.filename_of(media.file, media.made.content_type)
    return links.converted_url(media.file, media.made, filename=filename, base=base)


def _size(picture: Media) -> dict[str, str]:
    made = picture.bytes
    return {"size": f"{made.width}x{made.height}"} if made.width and made.height else {}


def _image(picture: Media, wanted: ImageOptions) -> dict[str, Any]:
    if wanted.as_url:
        return {"url": link(picture, base=wanted.base)}
    with storing.opened(picture.bytes) as reader:
        return {"b64_json": base64.b64encode(reader.read(picture.bytes.size)).decode()}
