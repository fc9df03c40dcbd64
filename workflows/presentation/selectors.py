"""Reads executions: fetching with permission, lists and related rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from django.db.models import QuerySet, prefetch_related_objects
from django.db.models.functions import Coalesce

from accounts.models import User
from comfyserve.api import paging
from comfyserve.api.errors import NotFound
from comfyserve.db import rows
from comfyserve.db.rows import Columns
from comfyserve.ttl_cache import TtlCache
from files.models import ConvertedFile, File
from workflows.models import Execution, Graph, LogLine, Output, OutputDelivery, Status
from workflows.models.own_metadata import OwnMetadata

LINES_IN_RESULT = 20
NEWEST = 200  # executions whose labels are compared before the index is used
_EXECUTION, _OUTPUT = Columns(Execution, "e"), Columns(Output, "o")
_SENT = Columns(OutputDelivery, "s")
_CONVERTED = Columns(ConvertedFile, "c")
_FILE, _LINE = Columns(File, "f"), Columns(LogLine, "l")


def execution_of(*, user: User, execution_id: str, with_graph: bool = False) -> Execution:
    """The user's execution. Raises NotFound also if the id is malformed or belongs to another user."""
    found = by_id(parsed_id(execution_id))
    if found is None or found.user_id != user.pk:
        raise not_found(execution_id)
    if with_graph:
        prefetch_related_objects([found], "graph")
    return found


def parsed_id(execution_id: str) -> UUID:
    """Raises NotFound if it is malformed."""
    try:
        return UUID(execution_id)
    except ValueError:
        raise not_found(execution_id) from None


def not_found(execution_id: str) -> NotFound:
    return NotFound(f"There is no execution {execution_id[:100]}")


_BY_ID_SQL = f"SELECT {_EXECUTION} FROM workflows_execution e WHERE id = %s"  # noqa: S608
_OUTPUTS_SQL = f"""
    SELECT {_OUTPUT}, {_FILE}, {_CONVERTED}, {_SENT} FROM workflows_output o
    LEFT JOIN files_file f ON f.id = o.file_id LEFT JOIN files_convertedfile c ON c.id = o.converted_id
    LEFT JOIN workflows_outputdelivery s ON s.output_id = o.id
    WHERE o.execution_id = ANY(%s) ORDER BY o.execution_id, o.position
"""  # noqa: S608
_LATEST_LINES_SQL = f"""
    SELECT {_LINE} FROM unnest(%s::uuid[]) AS asked(id) CROSS JOIN LATERAL (
        SELECT * FROM workflows_logline WHERE execution_id = asked.id
        ORDER BY id DESC LIMIT {LINES_IN_RESULT}) l
    ORDER BY l.id
"""  # noqa: S608


@dataclass(frozen=True)
class Whole:
    """An execution with the rows its result consists of."""

    execution: Execution
    outputs: list[Output]
    lines: list[LogLine]  # the newest


def whole_of(*, user: User, execution_id: str) -> Whole:
    """The user's execution, in one round trip. Raises NotFound like `execution_of`."""
    found = whole(parsed_id(execution_id))
    if found is None or found.execution.user_id != user.pk:
        raise not_found(execution_id)
    return found


def whole(execution_id: UUID) -> Whole | None:
    """In one round trip."""
    ids = [execution_id]
    with rows.pipeline():
        found = rows.prepared(_BY_ID_SQL, [execution_id])
        made, lines = rows.prepared(_OUTPUTS_SQL, [ids]), rows.prepared(_LATEST_LINES_SQL, [ids])
    row = found.fetchone()
    if row is None:
        return None
    return Whole(
        _EXECUTION.read(row), _read_outputs(made, ids)[execution_id], _read_lines(lines, ids)[execution_id]
    )


def by_id(execution_id: UUID) -> Execution | None:
    row = rows.prepared(_BY_ID_SQL, [execution_id]).fetchone()
    return _EXECUTION.read(row) if row else None


_PROMPTS_SQL = """
    SELECT execution_id, prompt FROM (
        SELECT g.execution_id, g.prompt,
            sum(octet_length(g.prompt::text)) OVER (ORDER BY asked.position) AS bytes_so_far
        FROM unnest(%s::uuid[]) WITH ORDINALITY AS asked(id, position)
        JOIN workflows_graph g ON g.execution_id = asked.id) AS measured
    WHERE bytes_so_far <= %s
"""


def prompts(ids: Sequence[UUID], *, most_bytes: int) -> dict[UUID, dict[str, Any]]:
    """The prompts of the first of these executions, as many as have at most so many bytes together."""
    found = rows.prepared(_PROMPTS_SQL, [list(ids), most_bytes]).fetchall()
    return {execution_id: json.loads(prompt) for execution_id, prompt in found}


def executions_of(*, user: User, status: str | None = None, app: str | None = None) -> QuerySet[Execution]:
    """The user's executions, latest first. `app` is `owner/name`."""
    rows = Execution.objects.filter(user=user).order_by("-created_at", "-id")
    if app:
        rows = rows.filter(app__name=app)
    return rows.filter(status=status) if status else rows


def labelled(*, user: User, labels: Mapping[str, str], limit: int, cursor: str | None) -> list[Execution]:
    """A page of the user's executions whose metadata has these values, latest first. ValidationFailed for an
    invalid cursor.

    What many executions have is found among the newest with any metadata, in their order. For the rest the
    index of labels has all matches, which are then sorted.
    """
    rows = paging.after(executions_of(user=user).exclude(metadata={}), cursor)
    oldest = next(iter(rows.values_list("created_at", flat=True)[NEWEST : NEWEST + 1]), None)
    newest = rows.filter(created_at__gt=oldest) if oldest else rows
    found = list(newest.filter(metadata__contains=labels)[:limit])
    if oldest is None or len(found) == limit:
        return found
    return list(paging.after(with_labels(user=user, labels=labels), cursor)[:limit])


def with_labels(*, user: User, labels: Mapping[str, str]) -> QuerySet[Execution]:
    """All of the user's, latest first, by the index of labels, and by no other: the labels name the user, and
    no index is in the order that is asked for. PostgreSQL cannot estimate how many match, and would read the
    index of all the user's executions as well, or fetch all executions in their order until enough match.
    """
    rows = Execution.objects.exclude(metadata={}).alias(own=OwnMetadata())
    in_no_index = Coalesce("created_at", "created_at")
    key: Any = {str(user.pk): labels}  # Any: the field of an alias is not known
    return rows.filter(own__contains=key).order_by(in_no_index.desc(), "-id")


def outputs(ids: Sequence[UUID]) -> dict[UUID, list[Output]]:
    """In the given order, with their files and converted files, in one query."""
    return _read_outputs(rows.prepared(_OUTPUTS_SQL, [list(ids)]), ids)


def _read_outputs(cursor: psycopg.Cursor[Any], ids: Sequence[UUID]) -> dict[UUID, list[Output]]:
    found: dict[UUID, list[Output]] = {id_: [] for id_ in ids}
    for row in cursor.fetchall():
        output = _OUTPUT.read(row)
        if output.file_id is not None:
            output.file = _FILE.read(row, at=len(_OUTPUT))
        output.converted = _converted(row, output)
        sent = _SENT.read(row, at=len(_OUTPUT) + len(_FILE) + len(_CONVERTED))
        output.sent = sent if sent.pk is not None else None
        found[output.execution_id].append(output)
    return found


def _converted(row: Sequence[Any], output: Output) -> ConvertedFile | None:
    """None also if it has been deleted since."""
    made = _CONVERTED.read(row, at=len(_OUTPUT) + len(_FILE)) if output.converted_id else None
    return made if made is not None and made.pk is not None else None


def latest_lines(ids: Sequence[UUID]) -> dict[UUID, list[LogLine]]:
    """The newest lines of each, oldest first, in one query."""
    return _read_lines(rows.prepared(_LATEST_LINES_SQL, [list(ids)]), ids)


def _read_lines(cursor: psycopg.Cursor[Any], ids: Sequence[UUID]) -> dict[UUID, list[LogLine]]:
    found: dict[UUID, list[LogLine]] = {id_: [] for id_ in ids}
    for row in cursor.fetchall():
        line = _LINE.read(row)
        found[line.execution_id].append(line)
    return found


def log_of(execution: Execution, *, level: str | None, tail: int) -> tuple[list[LogLine], int]:
    """(the newest `tail` lines, oldest first; how many lines match in all)."""
    rows = LogLine.objects.filter(execution=execution)
    if level:
        rows = rows.filter(level=level)
    return list(rows.order_by("-id")[:tail])[::-1], rows.count()


def inputs(ids: Sequence[UUID]) -> dict[UUID, Any]:
    """The named values of those that have any, in one query."""
    rows = Graph.objects.filter(execution_id__in=ids, inputs__isnull=False)
    return dict(rows.values_list("execution_id", "inputs"))


def error_details(execution_id: UUID) -> Any:
    """The error in machine-readable form; None if there was none."""
    return Graph.objects.filter(execution_id=execution_id).values_list("error_details", flat=True).first()


def error_details_of(ids: Sequence[UUID]) -> dict[UUID, Any]:
    """The same for several executions; no query if none failed."""
    if not ids:
        return {}
    return dict(Graph.objects.filter(execution_id__in=ids).values_list("execution_id", "error_details"))


def pending_count() -> int:
    """The number of waiting executions of all users: a count over the small partial index."""
    return Execution.objects.filter(status=Status.PENDING, claim_token=None, held=None).count()


def waiting_count() -> int:
    """The number of executions of all users that have not started: `queue_size` in /metrics/."""
    return Execution.objects.filter(status=Status.PENDING).count()


# The limit that protects the queue from overload need not be exact.
cached_pending_count = TtlCache(pending_count)


def any_pending() -> bool:
    """Whether any execution waits that a worker may claim."""
    return Execution.objects.filter(status=Status.PENDING, claim_token=None, held=None).exists()
