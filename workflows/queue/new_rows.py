"""The rows of new executions of one flow, in one statement that also computes their places in the order.

Computing the places first would take another round trip, with the user's submissions locked for its time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from comfyserve.db import rows
from workflows.metrics import store
from workflows.models import Execution

from . import execution_log, scheduling

# Columns of an execution that are the same for all that are submitted together, and those that differ.
_SHARED = (
    "timeout_minutes", "request_id", "metadata_text", "webhook_url", "held", "batch_id",
)  # fmt: skip
_OWN = (
    "id", "kind", "retried_from_id", "batch_position", "has_input_files", "models_used", "lacking", "app",
)  # fmt: skip


class GraphColumns(TypedDict):
    """The row of `Graph`."""

    submitted: Any
    prompt: Any
    inputs: Any
    extras: dict[str, Any]
    output: dict[str, Any]


# One statement: all of it sees the order as it is once `scheduling.lock_submissions` has returned, and the
# places that it inserts are the ones that it returns. The new rows are one JSON parameter: a hundred
# executions are the same statement as one, planned once, and a parameter for each value takes Python longer.
# Columns that are left out have a default in the database.
_SQL = f"""
    WITH new AS (
        SELECT * FROM json_to_recordset(%(new)s::json) AS new (
            n int, id uuid, kind varchar, retried_from_id uuid, batch_position int, has_input_files boolean,
            models_used jsonb, lacking varchar[], app jsonb,
            submitted jsonb, prompt jsonb, inputs jsonb, extras jsonb, output jsonb)
    ), asked AS (SELECT n, kind FROM new), {scheduling.PLACED_SQL}, execution AS (
        INSERT INTO workflows_execution (
            id, user_id, priority, created_at, turn, start, finish, cost,
            kind, retried_from_id, batch_position, has_input_files, models_used, lacking, app,
            timeout_minutes, request_id, metadata, metadata_text, webhook_url, held, batch_id,
            status, worker, attempt, boot, returns, faults, excluded,
            current_step, total_steps, percentage, warnings)
        SELECT
            id, %(user)s, %(priority)s, at, turn, start, finish, cost,
            kind, retried_from_id, batch_position, has_input_files, models_used, lacking, app,
            %(timeout_minutes)s, %(request_id)s, %(metadata)s::jsonb, %(metadata_text)s, %(webhook_url)s,
            %(held)s, %(batch_id)s::uuid,
            'pending', '', 0, '', 0, 0, '{{}}', 0, 0, 0, '[]'
        FROM new JOIN placed USING (n) ORDER BY n
    ), graph AS (
        INSERT INTO workflows_graph (execution_id, submitted, prompt, inputs, extras, output)
        SELECT id, submitted, prompt, inputs, extras, output FROM new
    ), counted AS ({store.SUBMITTED_SQL}), line AS ({execution_log.WAITING_SQL})
    {scheduling.READ_PLACED_SQL}
"""  # noqa: S608


def insert_later(
    executions: Sequence[Execution], graphs: Sequence[GraphColumns]
) -> Callable[[], list[float | None]]:
    """Insert executions of one user and priority with their graphs, first log lines and metric.

    In a pipeline, under the user's submission lock. Call what it returns after the block: it completes the
    executions with their places and returns the duration of earlier runs of each, in GPU seconds or None.
    Neither `save` nor the models' signals are called.
    """
    first = executions[0]
    new = [
        {"n": n, **{name: getattr(execution, name) for name in _OWN}, **graph}
        for n, (execution, graph) in enumerate(zip(executions, graphs, strict=True))
    ]
    parameters = {name: getattr(first, name) for name in _SHARED} | {
        "metadata": json.dumps(first.metadata),
        "new": json.dumps(new, default=str),  # for the UUIDs
    }
    cursor = rows.prepared(_SQL, scheduling.flow(first.user_id, first.priority) | parameters)

    def read() -> list[float | None]:
        places = rows.as_dataclasses(scheduling.Placed, cursor)
        for execution, placed in zip(executions, places, strict=True):
            execution.created_at, execution.cost = placed.at, placed.cost
            execution.turn, execution.start, execution.finish = placed.turn, placed.start, placed.finish
            rows.mark_as_saved(execution)
        return [placed.known for placed in places]

    return read
