"""Executions in the Comfy API's shapes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.db import connection

from files import links
from workflows.models import Execution, FailureCause, Output, Status
from workflows.presentation import selectors
from workflows.queue import queue_positions

from . import texts
from .assets import hash_of

STATUSES = {
    Status.PENDING: "queued",
    Status.RUNNING: "running",
    Status.COMPLETED: "succeeded",
    Status.FAILED: "failed",
    Status.CANCELLED: "canceled",
}
NEVER = datetime(9999, 12, 31, tzinfo=UTC)
NODES = """
SELECT (SELECT count(*) FROM jsonb_object_keys(prompt)),
       (SELECT count(DISTINCT node_id) FROM workflows_logline WHERE execution_id = %(id)s AND kind = 'node')
FROM workflows_graph WHERE execution_id = %(id)s
"""


def job(execution: Execution, *, base: str) -> dict[str, Any]:
    """The Comfy API's `Job`. `base` is the URL of this service as its user sees it."""
    at = f"{urlsplit(base).path}/api/v2/jobs/{execution.id}"  # relative: clients send their API key there
    made = selectors.outputs([execution.id])[execution.id]
    running = execution.status == Status.RUNNING
    return {
        "id": str(execution.id),
        "status": STATUSES[Status(execution.status)],
        "created_at": execution.created_at,
        "started_at": execution.started_at,
        "completed_at": execution.completed_at,
        "expires_at": _expires_at(execution),
        "queue_position": queue_positions.of([execution.id]).get(execution.id),
        "progress": progress(execution.percentage, execution.current_node, *nodes(execution.id))
        if running
        else None,
        "outputs": [output(each, base=base) for each in made if has_content(each)],
        "error": _error(execution) if execution.status == Status.FAILED else None,
        "metrics": {
            "queue_ms": _milliseconds(execution.created_at, execution.started_at),
            "execution_ms": _milliseconds(execution.started_at, execution.completed_at),
        },
        "metadata": execution.metadata,
        "urls": {"self": at, "events": f"{at}/events", "cancel": f"{at}/cancel"},
    }


def summary(execution: Execution) -> dict[str, Any]:
    """The list item of a job."""
    return {
        "id": str(execution.id),
        "status": STATUSES[Status(execution.status)],
        "create_time": execution.created_at,
        "update_time": execution.completed_at or execution.started_at or execution.created_at,
        "metadata": execution.metadata,
    }


def has_content(made: Output) -> bool:
    """Not where its file was deleted."""
    return made.file is not None or made.text is not None


def output(made: Output, *, base: str) -> dict[str, Any]:
    """The Comfy API's `Output`, of one that has content."""
    file = made.file
    if file is None:
        return texts.output(made, base=base)
    return {
        "node_id": made.node_id,
        "name": file.filename,
        "type": _kind(file.content_type, file.filename),
        "content_type": file.content_type,
        "size_bytes": file.size,
        "id": file.id,
        "hash": hash_of(file),
        "url": links.download_url(file, base=base),
        "url_expires_at": links.valid_until(),
        "job_id": str(made.execution_id),
    }


def progress(percentage: float, node: str | None, total: int, done: int) -> dict[str, Any]:
    """The Comfy API's `Progress`; `done` counts the nodes that have started, including the current one."""
    return {
        "value": min(max(percentage / 100, 0.0), 1.0),
        "nodes_done": min(max(done - 1, 0), total),
        "nodes_total": total,
        "current_node": node,
    }


def nodes(execution_id: UUID) -> tuple[int, int]:
    """(number of nodes in its graph, number that have started)."""
    with connection.cursor() as cursor:
        cursor.execute(NODES, {"id": execution_id})
        total, begun = cursor.fetchone() or (0, 0)
    return total, begun


def _kind(content_type: str, filename: str) -> str:
    if filename.endswith(".latent"):
        return "latent"
    major = content_type.partition("/")[0]
    return major if major in ("image", "video", "audio", "text") else "file"


def _error(execution: Execution) -> dict[str, Any]:
    details = selectors.error_details(execution.id)
    details = details if isinstance(details, dict) else {}
    cause = execution.failure_cause or FailureCause.OTHER
    return {
        "code": "node_execution_error" if cause == FailureCause.NODE else str(cause),
        "message": execution.error or "",
        "node_id": details.get("node_id"),
        "class_type": details.get("node_type") or details.get("class_type"),
        "traceback": None,
    }


def _expires_at(execution: Execution) -> datetime:
    days = settings.EXECUTION_RETENTION_DAYS
    return (execution.completed_at or execution.created_at) + timedelta(days=days) if days else NEVER


def _milliseconds(begin: datetime | None, end: datetime | None) -> int | None:
    return round((end - begin).total_seconds() * 1000) if begin and end else None
