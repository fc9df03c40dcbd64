"""Start-time fair queueing. A flow is one user's executions of one priority.

Based on Goyal, Vin, Cheng, "Start-time Fair Queuing" (SIGCOMM 1996), with a small constant step that makes
the priority apply to a flow's first execution too. `docs/scheduling.md` explains it for operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from comfyserve.db import rows
from comfyserve.db.locks import AdvisoryLock
from workflows import notify
from workflows.fleet import registry
from workflows.models import Priority

STEP_SECONDS = 10.0
MIN_COST, MAX_COST, UNKNOWN_COST = 1.0, 600.0, 30.0  # GPU seconds
NEW_COST = 10.0  # GPU seconds: minimum estimate for a kind that the user has not run yet
MIN_CHARGE = 0.5  # GPU seconds: minimum charge for anything that ran, even if fully cached


def weight_of(priority: str) -> float:
    return float(settings.PRIORITY_WEIGHTS[priority])


# For each kind of `asked`, a CTE before it: the GPU seconds of earlier runs, and the estimated cost.
#
# Many quick runs do not make a kind that the user has not run yet (such as one with renamed nodes) cheap, and
# long runs of others do not make it expensive: what exceeds an estimate is charged, while overestimates are
# not refunded in full. The user's own runs are materialized, so that they are read once and the others only
# if there are none.
_BOUNDED_SQL = f"least(greatest(coalesce({{}}, {UNKNOWN_COST}), {MIN_COST}), {MAX_COST})"
_TOOK_SQL = f"""
    of_own AS MATERIALIZED (
        SELECT kind, (
            SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY gpu_seconds) FROM (
                SELECT gpu_seconds FROM workflows_execution
                WHERE user_id = %(user)s AND kind = kinds.kind AND status = 'completed'
                ORDER BY completed_at DESC LIMIT 20) AS latest) AS own
        FROM (SELECT DISTINCT kind FROM asked) AS kinds
    ), took AS (
        SELECT kind, coalesce(own, of_kind) AS known, CASE
            WHEN own IS NOT NULL THEN {_BOUNDED_SQL.format("own")}
            WHEN mean IS NOT NULL THEN greatest({_BOUNDED_SQL.format("mean")}, {NEW_COST})
            ELSE least(greatest({_BOUNDED_SQL.format("of_kind")}, {NEW_COST}), {UNKNOWN_COST})
        END AS cost
        FROM of_own, LATERAL (SELECT (
            SELECT avg(gpu_seconds) FROM (
                SELECT gpu_seconds FROM workflows_execution
                WHERE user_id = %(user)s AND status = 'completed'
                ORDER BY created_at DESC, id DESC LIMIT 20) AS latest) AS mean, (
            SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY gpu_seconds) FROM (
                SELECT gpu_seconds FROM workflows_execution
                WHERE kind = of_own.kind AND status = 'completed'
                ORDER BY completed_at DESC LIMIT 20) AS latest) AS of_kind
        ) AS others
    )
"""  # noqa: S608

# For each of the user's flows: the claimed execution with the highest finish and the row written by `charge`,
# each plus the time by which running executions exceed their estimates; and the priority's weight.
SERVED_SQL = """
    SELECT w.priority, w.weight, c.start, c.finish + over.seconds / w.weight AS finish
    FROM unnest(%(priorities)s::varchar[], %(weights)s::float[]) AS w (priority, weight),
    LATERAL (
        (SELECT start, finish FROM workflows_execution
         WHERE user_id = %(user)s AND priority = w.priority AND claimed_at IS NOT NULL
         ORDER BY finish DESC LIMIT 1)
        UNION ALL
        (SELECT start, finish FROM workflows_flow WHERE user_id = %(user)s AND priority = w.priority)
    ) AS c,
    LATERAL (
        SELECT coalesce(sum(greatest(0, extract(epoch FROM statement_timestamp() - started_at) - cost)), 0)
            ::float AS seconds
        FROM workflows_execution
        WHERE user_id = %(user)s AND priority = w.priority AND status = 'running'
    ) AS over
"""

_VIRTUAL_SQL = """
    greatest(0, (SELECT start FROM workflows_execution
                 WHERE claimed_at IS NOT NULL ORDER BY start DESC LIMIT 1),
             (SELECT start FROM workflows_flow ORDER BY start DESC LIMIT 1))
"""

# Virtual time, and the flow's finish: after everything waiting in the flow, and after everything the user was
# served at any priority, converted to this flow's weight: the weights of a user's priorities do not add up.
_FLOW_SQL = f"""
    {_VIRTUAL_SQL},
    greatest(0, (SELECT finish FROM workflows_execution
                 WHERE user_id = %(user)s AND priority = %(priority)s
                     AND status = 'pending' AND claimed_at IS NULL
                 ORDER BY finish DESC LIMIT 1),
             (SELECT max(s.start + (s.finish - s.start) * s.weight / %(weight)s) FROM ({SERVED_SQL}) AS s))
"""  # noqa: S608


def flow(user_id: int, priority: str) -> dict[str, Any]:
    """Parameters of the statements about a user's flows."""
    weights = settings.PRIORITY_WEIGHTS
    return {
        "user": user_id,
        "priority": priority,
        "weight": weight_of(priority),
        "priorities": list(weights),
        "weights": [float(weight) for weight in weights.values()],
    }


@dataclass(frozen=True)
class Placed:
    """A new execution's place in virtual time (GPU seconds at weight 1), and what it was computed from.

    Executions are ordered by `turn`.
    """

    known: float | None  # GPU seconds of earlier runs of this kind
    cost: float  # estimated GPU seconds
    turn: float
    start: float
    finish: float
    at: datetime  # by the database's clock


# The fair-queueing formula, for the new executions `asked (n, kind)` of one flow, a CTE before it. Each
# starts where the one before it finishes. The user's submission lock must have been taken by an earlier
# statement: a statement sees only what was committed before it began, and needs every place given before.
PLACED_SQL = f"""
    {_TOOK_SQL}, flow (virtual, finish) AS (SELECT {_FLOW_SQL}), placed AS (
        SELECT n, known, cost, start + {STEP_SECONDS} / %(weight)s AS turn,
            start, start + cost / %(weight)s AS finish, statement_timestamp() AS at
        FROM (
            SELECT asked.n, known, cost, greatest(virtual, finish) + coalesce(sum(cost / %(weight)s) OVER (
                ORDER BY asked.n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS start
            FROM asked JOIN took USING (kind), flow
        ) AS started
    )
"""  # noqa: S608
READ_PLACED_SQL = "SELECT known, cost, turn, start, finish, at FROM placed ORDER BY n"
_ONE_SQL = "asked AS (SELECT 1 AS n, %(kind)s::varchar AS kind)"


def place(*, kind: str, user_id: int, priority: str) -> Placed:
    """The place that a new execution would get. The caller holds the user's submission lock."""
    cursor = rows.prepared(
        f"WITH {_ONE_SQL}, {PLACED_SQL} {READ_PLACED_SQL}", {"kind": kind} | flow(user_id, priority)
    )
    return rows.as_dataclasses(Placed, cursor)[0]


# Waiting executions that start before the flow's floor move behind it, together with everything waiting in
# that flow. They move forward if a new submission would start earlier.
_SETTLE_SQL = f"""
    WITH floors AS (
        SELECT w.priority, w.weight,
            max(s.start + (s.finish - s.start) * s.weight / w.weight) AS floor,
            max(s.start + (s.finish - s.start) * s.weight / w.weight)
                FILTER (WHERE s.priority <> w.priority) AS of_others
        FROM unnest(%(priorities)s::varchar[], %(weights)s::float[]) AS w (priority, weight),
            ({SERVED_SQL}) AS s
        GROUP BY w.priority, w.weight
    ), behind AS (
        SELECT f.priority, greatest(f.floor, least(v.start, first.start)) - first.start AS delta
        FROM floors f, (SELECT {_VIRTUAL_SQL} AS start) AS v, LATERAL (
            SELECT start FROM workflows_execution
            WHERE user_id = %(user)s AND priority = f.priority AND status = 'pending' AND claimed_at IS NULL
            ORDER BY finish LIMIT 1) AS first
        WHERE f.floor - first.start > %(step)s / f.weight
            OR f.of_others - first.start > %(least)s / f.weight
            OR first.start - greatest(f.floor, v.start) > %(step)s / f.weight
    ), free AS (
        SELECT e.id, b.delta FROM workflows_execution e JOIN behind b USING (priority)
        WHERE e.user_id = %(user)s AND e.status = 'pending' AND e.claimed_at IS NULL
        FOR NO KEY UPDATE OF e SKIP LOCKED
    )
    UPDATE workflows_execution e
    SET turn = e.turn + f.delta, start = e.start + f.delta, finish = e.finish + f.delta
    FROM free f WHERE e.id = f.id
"""  # noqa: S608


def settle(*, user_id: int) -> int:
    """Move the user's waiting executions to match what the user was actually served; return the number moved.

    Places are assigned from estimates, separately for each priority. If more was used, or executions of
    several priorities were claimed, everything waiting moves back by the difference, so underestimates and
    multiple priorities give no advantage. If less was used, it moves forward to where a new submission would
    be placed, but never before virtual time: the user could get the same by cancelling and resubmitting.
    Differences below the step are ignored until they grow. Safe to run anywhere, any time; returns 0 while a
    submission of the user is in progress.

    Idle workers are woken afterwards: a claim skips the rows that are locked here and may have found nothing.
    """
    if not _has_waiting(user_id):  # usually so, and much cheaper to find out
        return 0
    with transaction.atomic():
        if not lock_submissions(user_id=user_id, wait=False):
            return 0
        moved = rows.execute(
            _SETTLE_SQL, {"step": STEP_SECONDS, "least": MIN_CHARGE / 2} | flow(user_id, Priority.NORMAL)
        )
        if moved:
            transaction.on_commit(notify.ticket)
        return moved


def _has_waiting(user_id: int) -> bool:
    cursor = rows.prepared(
        """
        SELECT EXISTS (SELECT FROM workflows_execution
                       WHERE user_id = %s AND status = 'pending' AND claimed_at IS NULL)
        """,
        [user_id],
    )
    return bool(cursor.fetchall()[0][0])


@dataclass(frozen=True)
class Ended:
    """What an ended execution used, for `charge`."""

    user_id: int
    priority: str
    start: float
    cost: float  # estimated GPU seconds
    used: float  # GPU seconds
    claimed: bool


# For `overrun`, a CTE before it with one row or none: what an execution used beyond its estimate, divided by
# its weight (`more`), and its flow. The overruns of concurrent executions add up, so they are added to the
# flow's finish one by one.
CHARGE_SQL = """
    INSERT INTO workflows_flow AS f (user_id, priority, start, finish)
    SELECT user_id, priority, start, more + greatest(start, (
        SELECT max(e.finish) FROM workflows_execution e
        WHERE e.user_id = overrun.user_id AND e.priority = overrun.priority AND e.claimed_at IS NOT NULL))
    FROM overrun
    ON CONFLICT (user_id, priority) DO UPDATE SET start = greatest(f.start, excluded.start),
        finish = greatest(f.finish + (SELECT more FROM overrun), excluded.finish)
"""
_CHARGE_ONE_SQL = f"""
    WITH overrun AS (
        SELECT %(user)s::bigint AS user_id, %(priority)s::varchar AS priority, %(start)s::float AS start,
            %(more)s::float AS more
    ) {CHARGE_SQL}
"""


def charge(ended: Sequence[Ended]) -> None:
    """Record usage above the estimates, in the transaction that ended the executions.

    Must be its last statement: it locks the user's flow rows.
    """
    for each in sorted(ended, key=lambda each: (each.user_id, each.priority)):
        more = (each.used - each.cost) / weight_of(each.priority)
        if each.claimed and more > 0:
            rows.execute(
                _CHARGE_ONE_SQL,
                {"user": each.user_id, "priority": each.priority, "start": each.start, "more": more},
            )


def settle_served() -> int:
    """Run `settle` for every user with a claimed execution (at most 1,000); return the number moved."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT user_id FROM workflows_execution WHERE claim_token IS NOT NULL LIMIT 1000"
        )
        users = [row[0] for row in cursor.fetchall()]
    return sum(settle(user_id=user_id) for user_id in users)


def remember(ids: Sequence[UUID]) -> None:
    """Save what the order needs from these executions, which are about to be deleted.

    Otherwise virtual time would go back and the next submission would overtake everything waiting; and a user
    could erase past usage by deleting executions.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO workflows_flow AS f (user_id, priority, start, finish)
            SELECT user_id, priority, max(start), max(finish) FROM workflows_execution
            WHERE id = ANY(%s) AND claimed_at IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2
            ON CONFLICT (user_id, priority) DO UPDATE
            SET start = greatest(f.start, excluded.start), finish = greatest(f.finish, excluded.finish)
            WHERE f.start < excluded.start OR f.finish < excluded.finish
            """,
            [list(ids)],
        )


# The next execution for a worker. SKIP LOCKED: claims never wait for each other. See `next_parameters`.
NEXT_SQL = f"""
    SELECT id FROM workflows_execution
    WHERE status = 'pending' AND claim_token IS NULL AND held IS NULL
      AND %s::varchar <> ALL(excluded || lacking)
      AND ARRAY({registry.IDLE_OTHERS_SQL} AND %s) <@ (excluded || lacking)
    ORDER BY turn, created_at
    LIMIT 1 FOR UPDATE SKIP LOCKED
"""  # noqa: S608


def next_parameters(*, worker: str, leave_to_idle: bool) -> list[Any]:
    """`leave_to_idle`: other workers that are idle get what any of them may take."""
    return [worker, *registry.idle_others_parameters(worker), leave_to_idle]


def estimate(*, kind: str, user_id: int) -> tuple[float | None, float]:
    """(duration of earlier runs of this kind or None, the estimated cost), both in GPU seconds."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"WITH {_ONE_SQL}, {_TOOK_SQL} SELECT known, cost FROM took",  # noqa: S608
            {"kind": kind, "user": user_id},
        )
        known, cost = cursor.fetchone()
    return known, cost


def lowest(priority: str, cap: str | None) -> str:
    """`priority`, or the user's cap if that is lower."""
    order = [Priority.LOW, Priority.NORMAL, Priority.HIGH]
    if cap and order.index(Priority(cap)) < order.index(Priority(priority)):
        return cap
    return priority


def lock_submissions(*, user_id: int, wait: bool = True) -> bool:
    """Serialize a user's submissions until the transaction ends: quotas hold and places do not collide.

    Returns False if `wait` is False and another session holds the lock.

    The rest of the transaction is planned once per connection (`_PLANNED_ONCE`).
    """
    function = "pg_advisory_xact_lock" if wait else "pg_try_advisory_xact_lock"
    lock = [int(AdvisoryLock.SUBMISSIONS), user_id]
    cursor = rows.prepared(f"SELECT {function}(%s::int, %s::int), {_PLANNED_ONCE}", lock)
    return wait or bool(cursor.fetchall()[0][0])


# Left to itself, PostgreSQL plans the statement of `place` anew each time, which takes five times as long as
# running it. One plan serves all users as long as it reads the indexes that begin with the user or the kind.
# Only the user's latest runs have another index that looks as good, `execution_latest`, and would be read to
# its end for a user with few runs; it lacks the id, and so needs the sort that is switched off here.
_PLANNED_ONCE = (
    "set_config('plan_cache_mode', 'force_generic_plan', true), "
    "set_config('enable_incremental_sort', 'off', true)"
)
