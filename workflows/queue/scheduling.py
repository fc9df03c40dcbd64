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


@dataclass(frozen=True)
class Place:
    """An execution's place in virtual time (GPU seconds at weight 1). Ordered by `turn`."""

    turn: float
    start: float
    finish: float


def place_at(*, virtual: float, flow_finish: float, cost: float, weight: float) -> Place:
    """The fair-queueing formula, without I/O.

    virtual: the highest `start` ever claimed. flow_finish: the highest `finish` among the flow's waiting and
    claimed executions. cost: estimated GPU seconds.
    """
    start = max(virtual, flow_finish)
    return Place(turn=start + STEP_SECONDS / weight, start=start, finish=start + cost / weight)


def weight_of(priority: str) -> float:
    return float(settings.PRIORITY_WEIGHTS[priority])


def bounded(cost: float | None) -> float:
    return UNKNOWN_COST if cost is None else min(max(cost, MIN_COST), MAX_COST)


def estimated_cost(*, own: float | None, mean: float | None, of_kind: float | None) -> float:
    """The estimated cost in GPU seconds. Many quick runs do not make a kind that the user has not run yet
    (such as one with renamed nodes) cheap, and long runs of others do not make it expensive: what exceeds an
    estimate is charged, while overestimates are not refunded in full.

    own: median of the user's own runs of this kind. mean: mean of the user's recent completed runs. of_kind:
    median of all users' runs of this kind.
    """
    if own is not None:
        return bounded(own)
    if mean is not None:
        return max(bounded(mean), NEW_COST)
    return min(max(bounded(of_kind), NEW_COST), UNKNOWN_COST)


# GPU seconds of recent completed executions: the user's of this kind, all of the user's, and all users' of
# this kind.
_TOOK_SQL = """
    (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY gpu_seconds) FROM (
        SELECT gpu_seconds FROM workflows_execution
        WHERE user_id = %(user)s AND kind = %(kind)s AND status = 'completed'
        ORDER BY completed_at DESC LIMIT 20) own),
    (SELECT avg(gpu_seconds) FROM (
        SELECT gpu_seconds FROM workflows_execution
        WHERE user_id = %(user)s AND status = 'completed' ORDER BY created_at DESC, id DESC LIMIT 20) u),
    (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY gpu_seconds) FROM (
        SELECT gpu_seconds FROM workflows_execution
        WHERE kind = %(kind)s AND status = 'completed' ORDER BY completed_at DESC LIMIT 20) k)
"""

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
    """A new execution's place, and what it was computed from."""

    known: float | None  # GPU seconds of earlier runs of this kind
    cost: float  # estimated GPU seconds
    place: Place
    at: datetime  # by the database's clock


def place(*, kind: str, user_id: int, priority: str) -> Placed:
    """One query. The caller holds the user's submission lock."""
    cursor = rows.prepared(
        f"SELECT {_TOOK_SQL}, {_FLOW_SQL}, statement_timestamp()",
        {"kind": kind} | flow(user_id, priority),
    )
    own, mean, of_kind, virtual, flow_finish, at = cursor.fetchall()[0]
    cost = estimated_cost(own=own, mean=mean, of_kind=of_kind)
    found = place_at(virtual=virtual, flow_finish=flow_finish, cost=cost, weight=weight_of(priority))
    return Placed(of_kind if own is None else own, cost, found, at)


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


# The overruns of concurrent executions add up, so they are added to the flow's finish one by one.
_CHARGE_SQL = """
    INSERT INTO workflows_flow AS f (user_id, priority, start, finish)
    SELECT %(user)s, %(priority)s, %(start)s, greatest(%(start)s, served.finish) + %(more)s FROM (
        SELECT max(finish) AS finish FROM workflows_execution
        WHERE user_id = %(user)s AND priority = %(priority)s AND claimed_at IS NOT NULL) AS served
    ON CONFLICT (user_id, priority) DO UPDATE SET start = greatest(f.start, excluded.start),
        finish = greatest(f.finish + %(more)s, excluded.finish)
"""


def charge(ended: Sequence[Ended]) -> None:
    """Record usage above the estimates, in the transaction that ended the executions.

    Must be its last statement: it locks the user's flow rows.
    """
    for each in sorted(ended, key=lambda each: (each.user_id, each.priority)):
        more = (each.used - each.cost) / weight_of(each.priority)
        if each.claimed and more > 0:
            rows.execute(
                _CHARGE_SQL,
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


def places(*, kinds: Sequence[str], user_id: int, priority: str) -> list[Placed]:
    """Like `place`, for several executions submitted together.

    Two queries at most; the caller holds the user's submission lock.
    """
    first = place(kind=kinds[0], user_id=user_id, priority=priority)
    took = {kinds[0]: (first.known, first.cost)}
    others = set(kinds) - took.keys()
    if others:
        took |= _took(sorted(others), user_id=user_id)
    found = [first]
    weight = weight_of(priority)
    for kind in kinds[1:]:
        known, cost = took[kind]
        last = found[-1].place.finish
        then = place_at(virtual=last, flow_finish=last, cost=cost, weight=weight)
        found.append(Placed(known, cost, then, first.at))
    return found


def _took(kinds: Sequence[str], *, user_id: int) -> dict[str, tuple[float | None, float]]:
    """What `estimate` returns, for each kind. One query."""
    of_each = _TOOK_SQL.replace("%(kind)s", "asked.kind")
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT asked.kind, {of_each} FROM unnest(%(kinds)s::varchar[]) AS asked(kind)",  # noqa: S608
            {"kinds": list(kinds), "user": user_id},
        )
        return {
            kind: (of_kind if own is None else own, estimated_cost(own=own, mean=mean, of_kind=of_kind))
            for kind, own, mean, of_kind in cursor.fetchall()
        }


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
        cursor.execute(f"SELECT {_TOOK_SQL}", {"kind": kind, "user": user_id})
        own, mean, of_kind = cursor.fetchone()
    known = of_kind if own is None else own
    return known, estimated_cost(own=own, mean=mean, of_kind=of_kind)


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
