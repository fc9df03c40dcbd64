"""Execution log lines: stored as rows for the user and copied to the process log for operators."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from comfyserve.db import connections, rows
from workflows.models import Level, LineKind

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Line:
    """One line of an execution's log."""

    message: str
    level: str = Level.INFO
    node_id: str | None = None
    kind: str = LineKind.LOG
    data: dict[str, Any] | None = None

    @classmethod
    def of_status(cls, message: str, status: str, level: str = Level.INFO, **data: Any) -> Line:
        """The line that records a status change."""
        return cls(message, level, kind=LineKind.STATUS, data={"status": str(status), **data})


def write(ids: Sequence[UUID], lines: Sequence[Line]) -> None:
    """Write the same lines to the log of each execution."""
    if not ids or not lines:
        return
    values: list[Any] = []
    for id_ in ids:
        for line in lines:
            data = None if line.data is None else json.dumps(connections.sanitize_json(line.data))
            values += (
                id_,
                line.level,
                connections.sanitize_json(line.message),
                line.node_id,
                line.kind,
                data,
            )
    places = ", ".join(["(%s, %s, %s, %s, %s, %s::jsonb)"] * (len(values) // 6))
    columns = "execution_id, level, message, node_id, kind, data"
    rows.execute(f"INSERT INTO workflows_logline ({columns}) VALUES {places}", values)  # noqa: S608


# The first line of each execution of `new`, a CTE before it.
WAITING_SQL = """
    INSERT INTO workflows_logline (execution_id, level, message, kind, data)
    SELECT id, 'INFO', 'Waiting in the queue', 'status', '{"status": "pending"}' FROM new
"""


# Writes %(lines)s, given `as_json`, to the log of each execution of `ended`, a CTE with their ids of the
# statement that this is part of. The lines get their ids in the given order.
INSERT_SQL = """
    INSERT INTO workflows_logline (execution_id, level, message, node_id, kind, data)
    SELECT ended.id, line.level, line.message, line.node_id, line.kind, line.data
    FROM ended, ROWS FROM (
        json_to_recordset(%(lines)s::json) AS (level text, message text, node_id text, kind text, data jsonb)
    ) WITH ORDINALITY AS line (level, message, node_id, kind, data, number)
    ORDER BY line.number
"""


def as_json(lines: Sequence[Line]) -> str:
    """The parameter `lines` of INSERT_SQL."""
    return json.dumps(connections.sanitize_json([vars(line) for line in lines]))


def copy_to_process_log(ids: Iterable[UUID], lines: Iterable[Line]) -> None:
    """For operators."""
    for id_ in ids:
        for line in lines:
            level = logging.getLevelNamesMapping()[line.level]
            logger.log(level, "%s", line.message, extra={"execution_id": str(id_), "node_id": line.node_id})
