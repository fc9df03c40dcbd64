"""What a worker writes when the execution it has claimed ends: its row, log lines, metrics, outputs and their
files, and the charge, in one statement.

It depends on nothing that is read first, so BEGIN, locks, statement and COMMIT can be sent together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from accounts import quotas
from comfyserve.db import rows
from files import storing
from workflows.metrics import store
from workflows.models import Output, Status
from workflows.presentation import end_message, selectors

from . import execution_log, scheduling, transitions
from .claims import Claim
from .execution_log import Line

# Both locks are taken by a statement before the one that writes, which sees only what was committed before it
# began. The execution's row: log lines become visible in the order of their ids, and the latest lines are all
# there. The user's storage: equal bytes of the user are found. The row comes first, as everywhere, so that
# nobody waits for the storage behind a row that is locked for long. If the claim is lost, neither is locked.
_LOCK_SQL = f"""
    WITH own AS MATERIALIZED (
        SELECT FROM workflows_execution WHERE id = %(id)s AND claim_token = %(token)s FOR NO KEY UPDATE
    )
    SELECT CASE WHEN %(storage)s THEN {quotas.LOCK_STORAGE_SQL} END FROM own
"""  # noqa: S608

# Everything is made from the updated row, `ended`. If the claim is lost there is none, and nothing is
# written: that is no error, although the outputs may exist, from an earlier commit of ours whose response was
# lost, or from another worker. Where there is a charge, the update leaves the execution's `finish` as it was,
# so that it need not be seen.
_OUTPUT_COLUMNS = rows.names_of_columns(Output)
_SQL = f"""
    WITH ended AS ({transitions.UPDATE_SQL}, id, {store.ENDED_COLUMNS}, workflows_execution AS row),
    counted AS ({store.COUNT_ENDED_SQL}),
    logged AS ({execution_log.INSERT_SQL} RETURNING *),
    new_file AS (SELECT new.* FROM ended, {storing.GIVEN_SQL} AS new),
    kept AS ({storing.KEEP_SQL}),
    made AS (
        INSERT INTO workflows_output ({", ".join(_OUTPUT_COLUMNS)})
        SELECT {", ".join(f"new.{column}" for column in _OUTPUT_COLUMNS)}
        FROM ended, json_populate_recordset(NULL::workflows_output, %(outputs)s::json) AS new
        RETURNING *
    ),
    line AS (
        (SELECT * FROM workflows_logline WHERE execution_id = %(id)s
         ORDER BY id DESC LIMIT {selectors.LINES_IN_RESULT})
        UNION ALL SELECT * FROM logged ORDER BY id DESC LIMIT {selectors.LINES_IN_RESULT}
    ),
    overrun AS (
        SELECT user_id, priority, start, (used - cost) / %(weight)s::float AS more
        FROM ended WHERE claimed AND used > cost AND %(charge)s
    ),
    charged AS ({scheduling.CHARGE_SQL})
    SELECT ({end_message.ROWS_SQL}), (SELECT array_agg(id ORDER BY position) FROM made), ({storing.KEPT_SQL}),
        user_id, priority, start, cost, used, claimed
    FROM ended
"""  # noqa: S608


@dataclass(frozen=True)
class Written:
    rows: str  # of the result, as `end_message.unpack` reads them
    used: scheduling.Ended


def write_later(
    claim: Claim,
    status: Status,
    *,
    outputs: Sequence[Output],
    lines: Sequence[Line],
    charge: bool,
    **columns: Any,
) -> Callable[[], Written | None]:
    """Record the end in a `rows.pipeline` that is all of its transaction so far: call what it returns after
    the block. It completes the outputs and their files. None: the claim is lost, and nothing was written.

    `charge`: nothing else is written in this transaction; see `scheduling.charge`. `columns` are those of
    `transitions.end_parameters`.
    """
    files = [output.file for output in outputs if output.file is not None]
    _lock(claim, storage=bool(files))  # sent at once: PostgreSQL takes the locks meanwhile
    parameters = transitions.end_parameters([claim.execution_id], status, **columns) | {
        "id": claim.execution_id,
        "token": claim.token,
        "user_id": claim.user_id,
        "cost": columns["gpu_seconds"] or 0.0,
        "lines": execution_log.as_json(lines),
        "files": storing.new_rows(files),
        "missing": [],
        "outputs": rows.as_json(outputs),
        "weight": scheduling.weight_of(claim.priority),
        "charge": charge,
    }
    cursor = rows.prepared(_SQL, parameters | store.COUNT_ENDED_PARAMETERS)

    def read() -> Written | None:
        found = cursor.fetchone()
        if found is None:
            return None
        packed, ids, kept, *used = found
        for output, id_ in zip(outputs, ids or (), strict=True):
            output.pk = id_
            rows.mark_as_saved(output)
        storing.note_kept(files, kept)
        transitions.copy_later([claim.execution_id], lines)
        return Written(packed, scheduling.Ended(*used))

    return read


def _lock(claim: Claim, *, storage: bool) -> None:
    rows.prepared(
        _LOCK_SQL,
        {"id": claim.execution_id, "token": claim.token, "storage": storage, "user_id": claim.user_id},
    )
