"""OpenAI's video API: a video is an execution whose metadata says that it was requested here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet

from accounts.models import User
from apps_catalog import running
from comfyserve.api.errors import NotFound
from files import links
from workflows.models import Execution, Status
from workflows.presentation import selectors
from workflows.queue import commands

from . import answers, models, parameters

# Key of the metadata: the request's fields, which responses repeat. An index of executions has it too.
MARK = "openai_video"
LONGEST_PROMPT = 1000  # characters repeated
STATUSES = {
    Status.PENDING: "queued",
    Status.RUNNING: "in_progress",
    Status.COMPLETED: "completed",
    Status.FAILED: "failed",
    Status.CANCELLED: "failed",
}


def create(
    *, user: User, given: Mapping[str, Any], extra: Mapping[str, Any], references: Mapping[str, str]
) -> Execution:
    """Queue a run of the app. `references`: file ids or addresses by "image" and "video".

    Animated images and other video formats become MP4, which is what OpenAI's clients expect.
    """
    found = models.find(user=user, name=given["model"])
    values = parameters.video_values(found.inputs, given, extra, references=references)
    requested = {name: given[name] for name in ("model", "seconds", "size") if given[name]}
    run = running.run(
        user=user,
        app=f"{found.app.address}@{found.version.number}",
        inputs=values,
        output={"format": "mp4"},
        metadata={MARK: {**requested, "prompt": given["prompt"][:LONGEST_PROMPT]}},
    )
    return selectors.by_id(run.accepted.execution.id) or run.accepted.execution


def find(*, user: User, video_id: str) -> Execution:
    try:
        execution = selectors.execution_of(user=user, execution_id=video_id)
    except NotFound:
        execution = None
    if execution is None or MARK not in execution.metadata:
        raise NotFound(f"There is no video {video_id[:100]}")
    return execution


def page(*, user: User, limit: int, after: str | None, ascending: bool) -> tuple[list[Execution], bool]:
    """(one page, whether there are more). NotFound if `after` is not a video of the user."""
    rows: QuerySet[Execution] = selectors.executions_of(user=user).filter(metadata__has_key=MARK)
    if ascending:
        rows = rows.order_by("created_at", "id")
    if after:
        last = find(user=user, video_id=after)
        comparison = "gt" if ascending else "lt"
        later = Q(**{f"created_at__{comparison}": last.created_at})
        rows = rows.filter(later | Q(**{"created_at": last.created_at, f"id__{comparison}": last.id}))
    found = list(rows[: limit + 1])
    return found[:limit], len(found) > limit


def delete(execution: Execution) -> dict[str, Any]:
    """Raises Conflict while it is queued or in progress."""
    commands.delete(execution=execution)
    return {"id": str(execution.id), "object": "video.deleted", "deleted": True}


def link(execution: Execution, *, variant: str, base: str) -> str:
    """The URL of the video's bytes, or of its thumbnail."""
    found = _made([execution])[execution.id]
    if found is None:
        status = STATUSES[Status(execution.status)]
        raise NotFound(f"The video cannot be downloaded: it is {status}" + _no_video(execution))
    if variant == "video":
        return answers.link(found, base=base)
    address = links.thumbnail_url(found.file, base=base)
    if address is None:
        raise NotFound("The video has no thumbnail")
    return address


def described(executions: Sequence[Execution]) -> list[dict[str, Any]]:
    """OpenAI's `Video` of each."""
    made = _made([each for each in executions if each.status == Status.COMPLETED])
    return [_described(each, made.get(each.id)) for each in executions]


def _described(execution: Execution, made: answers.Media | None) -> dict[str, Any]:
    requested = _requested(execution)
    error = _error(execution, made)
    size, seconds = requested.get("size", ""), requested.get("seconds", "")
    if made is not None and made.bytes.width:
        size = f"{made.bytes.width}x{made.bytes.height}"
    if made is not None and made.bytes.duration_seconds:
        seconds = f"{made.bytes.duration_seconds:g}"
    return {
        "id": str(execution.id),
        "object": "video",
        "model": requested.get("model", ""),
        "prompt": requested.get("prompt", ""),
        "status": "failed" if error else STATUSES[Status(execution.status)],
        "progress": 100 if made else int(execution.percentage),
        "created_at": _seconds(execution.created_at),
        "completed_at": _seconds(execution.completed_at),
        "expires_at": _seconds(made.file.expires_at) if made else None,
        "size": size,
        "seconds": seconds,
        "remixed_from_video_id": None,
        "error": error,
    }


def _requested(execution: Execution) -> dict[str, str]:
    """The request's fields. Users can change metadata, so our key may hold anything."""
    found = execution.metadata[MARK]
    return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _error(execution: Execution, made: answers.Media | None) -> dict[str, str] | None:
    match Status(execution.status):
        case Status.FAILED:
            return {
                "code": execution.failure_cause or "failed",
                "message": execution.error or "The execution failed",
            }
        case Status.CANCELLED:
            return {"code": "cancelled", "message": "The execution was cancelled"}
        case Status.COMPLETED if made is None:
            return {"code": "no_video", "message": "The app produced no video" + _no_video(execution)}
    return None


def _no_video(execution: Execution) -> str:
    """Why no output became a video, as far as known."""
    return "".join(f". {warning}" for warning in execution.warnings[:3])


def _made(executions: Sequence[Execution]) -> dict[UUID, answers.Media | None]:
    """The first video of each."""
    found = answers.media_of(executions, "video/")
    return {id_: next(iter(media), None) for id_, media in found.items()}


def _seconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment else None
