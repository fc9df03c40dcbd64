"""Executions as the API shows them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from comfyserve.api.rendering import JSONText
from files import conversion, converted, links
from files.formats import Group
from files.models import ConvertedFile, File
from workflows.models import Execution, LogLine, Output, Status

from . import selectors


def line(entry: LogLine) -> dict[str, Any]:
    return {
        "timestamp": entry.timestamp,
        "level": entry.level,
        "message": entry.message,
        "node_id": entry.node_id,
    }


def outputs(
    found: Iterable[Output], *, base: str, content: Mapping[int, JSONText] | None = None
) -> dict[str, list[Any]]:
    """Grouped by kind. `base` is the URL of this service as its user sees it.

    With `content` (see `file_data.read`) each file has `data`, or its converted file if it has one: null if
    the content is not there.
    """
    groups: dict[str, list[Any]] = {}
    for output in found:
        shown = one_output(output, base=base)
        if content is not None and output.text is None:
            shown.get("converted", shown)["data"] = content.get(output.position)
        groups.setdefault(output.group, []).append(shown)
    return groups


def one_output(output: Output, *, base: str) -> dict[str, Any]:
    return _text(output) if output.file is None else _file(output, base=base)


def _text(output: Output) -> dict[str, Any]:
    if output.text is not None:
        return {"node_id": output.node_id, "text": output.text}
    return {"node_id": output.node_id, "filename": None, "url": None, "deleted": True}


def _file(output: Output, *, base: str) -> dict[str, Any]:
    file = output.file
    assert file is not None  # noqa: S101  (the caller looked)
    shown = {
        "filename": file.filename,
        "url": links.download_url(file, base=base),
        "width": file.width,
        "height": file.height,
        "duration_seconds": file.duration_seconds,
        "file_id": file.id,
        "node_id": output.node_id,
        "subfolder": output.subfolder,
        "content_type": file.content_type,
        "size": file.size,
        "temporary": output.temporary,
        "thumbnail_url": links.thumbnail_url(file, base=base),
    }
    made = output.converted
    return shown if made is None else {**shown, "converted": _converted(file, made, base=base)}


def _converted(file: File, made: ConvertedFile, *, base: str) -> dict[str, Any]:
    """The converted file, with the same fields as the original beside it."""
    filename = converted.filename_of(file, made.content_type)
    return {
        "format": conversion.FORMAT_OF.get(made.content_type),
        "filename": filename,
        "url": links.converted_url(file, made, filename=filename, base=base),
        "width": made.width,
        "height": made.height,
        "duration_seconds": made.duration_seconds,
        "content_type": made.content_type,
        "size": made.size,
    }


def result(
    execution: Execution,
    *,
    made: Iterable[Output],
    lines: Iterable[LogLine],
    base: str,
    error_details: Any = None,
) -> dict[str, Any]:
    """The response of *Get Workflow Result*."""
    made = list(made)
    return {
        "execution_id": execution.id,
        "status": execution.status,
        "priority": execution.priority,
        "created_at": execution.created_at,
        "started_at": execution.started_at,
        "completed_at": execution.completed_at,
        "duration_seconds": execution.duration_seconds,
        "outputs": outputs(made, base=base),
        "error": execution.error,
        "error_details": error_details,
        "warnings": execution.warnings,
        "logs": [line(entry) for entry in lines],
        "metadata": metadata(execution),
        "models_used": [use["name"] for use in execution.models_used],
        "retried_from": execution.retried_from_id,
        **_of_app(execution, made, base=base),
        **delivery(made),
        **({"batch_id": execution.batch_id} if execution.batch_id else {}),
    }


LISTED_OUTPUTS = 20  # per kind
LISTED_TEXT = 500  # characters
LISTED_ERROR = 2000  # characters


def listed(page: Sequence[Execution], *, base: str) -> list[dict[str, Any]]:
    """The response of *Get Workflow Result* for each, bounded; `truncated` says if anything is left out."""
    ids = [row.id for row in page]
    made, lines = selectors.outputs(ids), selectors.latest_lines(ids)
    details = selectors.error_details_of([row.id for row in page if row.error])
    return [
        _bounded(
            result(
                row,
                made=made[row.id],
                lines=lines[row.id],
                base=base,
                error_details=details.get(row.id),
            )
        )
        for row in page
    ]


def _bounded(shown: dict[str, Any]) -> dict[str, Any]:
    truncated = len(shown["error"] or "") > LISTED_ERROR
    if truncated:
        shown["error"] = shown["error"][:LISTED_ERROR]
    for group, items in shown["outputs"].items():
        truncated |= len(items) > LISTED_OUTPUTS
        del items[LISTED_OUTPUTS:]
        for item in items if group == Group.TEXTS else ():
            truncated |= len(item.get("text") or "") > LISTED_TEXT
            item |= {"text": item["text"][:LISTED_TEXT]} if item.get("text") else {}
    for entry in shown["logs"]:
        truncated |= len(entry["message"]) > LISTED_TEXT
        entry["message"] = entry["message"][:LISTED_TEXT]
    return {**shown, "truncated": truncated}


def _of_app(execution: Execution, made: Iterable[Output], *, base: str) -> dict[str, Any]:
    """For a run of an app: its name, and the outputs under the app's own names."""
    app = execution.app
    if not app:
        return {}
    by_node: dict[str, list[Any]] = {}
    for output in made:
        by_node.setdefault(output.node_id, []).append(one_output(output, base=base))
    named = {name: by_node.get(node_id, []) for name, node_id in app["outputs"].items()}
    return {"app": app["name"], "version": app["version"], "named_outputs": named}


def result_of(found: selectors.Whole, *, base: str) -> dict[str, Any]:
    """The response of *Get Workflow Result*. Loads the error's details if there is an error."""
    execution = found.execution
    details = selectors.error_details(execution.id) if execution.error else None
    return result(execution, made=found.outputs, lines=found.lines, base=base, error_details=details)


def delivery(made: Iterable[Output]) -> dict[str, Any]:
    """For a run with a delivery: the state of each file."""
    sent = [output.sent for output in made if output.sent is not None]
    shown = [
        {
            "file": each.filename,
            "status": each.state,
            "attempts": each.tries,
            "error": each.error or None,
            "url": each.url or None,
            "next_attempt_at": each.due_at if each.state == each.State.WAITING else None,
        }
        for each in sent
    ]
    return {"delivery": shown} if shown else {}


def metadata(execution: Execution) -> JSONText:
    """The user's metadata exactly as sent, followed by `model_used` unless the user set it."""
    text = own_metadata(execution)
    name = model_used(execution)
    if name is None or "model_used" in execution.metadata:
        return JSONText(text)
    own = text.rstrip()[:-1]
    comma = ", " if execution.metadata else ""
    return JSONText(f'{own}{comma}"model_used": {json.dumps(name)}}}')


def own_metadata(execution: Execution) -> str:
    """The user's metadata, as JSON."""
    return execution.metadata_text or json.dumps(execution.metadata, ensure_ascii=False)


def model_used(execution: Execution) -> str | None:
    return execution.models_used[0]["name"] if execution.models_used else None


def status(
    execution: Execution, *, queue_position: int | None, estimated_seconds: float | None
) -> dict[str, Any]:
    return {
        "execution_id": execution.id,
        "status": execution.status,
        "created_at": execution.created_at,
        "started_at": execution.started_at,
        "completed_at": execution.completed_at,
        "queue_position": queue_position,
        "progress": progress(execution),
        "estimated_completion": estimated_completion(execution, estimated_seconds=estimated_seconds),
    }


def progress(execution: Execution) -> dict[str, Any]:
    return {
        "current_step": execution.current_step,
        "total_steps": execution.total_steps,
        "percentage": round(execution.percentage, 1),
        "current_node": execution.current_node,
        "eta_seconds": None if execution.eta_seconds is None else round(execution.eta_seconds, 1),
    }


def estimated_completion(execution: Execution, *, estimated_seconds: float | None) -> datetime | None:
    """From measured steps, else from earlier runs of this kind; null if unknown."""
    if execution.status != Status.RUNNING or execution.started_at is None:
        return None
    if execution.eta_seconds is not None:
        return timezone.now() + timedelta(seconds=execution.eta_seconds)
    if estimated_seconds is not None:
        return execution.started_at + timedelta(seconds=estimated_seconds)
    return None
