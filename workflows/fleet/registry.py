"""The rows of workers: heartbeats, which workers are alive, and the states operators want."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from accounts import audit
from comfyserve.api.errors import NotFound
from comfyserve.db import rows
from comfyserve.ttl_cache import TtlCache
from workflows.models import ALIVE, Execution, Worker

BEATS = 3  # missed heartbeats after which a worker counts as silent
DESIRED_STATE_CHANNEL = "comfyserve_wish"  # NOTIFY payload: name of a worker whose desired state changed
ACTIONS = {
    Worker.DesiredState.WORK: "worker.resume",
    Worker.DesiredState.PAUSE: "worker.pause",
    Worker.DesiredState.DRAIN: "worker.drain",
}


def alive() -> QuerySet[Worker]:
    """Workers whose heartbeat is at most BEATS renewal periods old."""
    return Worker.objects.filter(heartbeat_at__gt=Now() - timedelta(seconds=settings.RENEW_SECONDS * BEATS))


cached_any_alive = TtlCache(lambda: alive().exists())


def others_alive(*, name: str) -> list[str]:
    """Other workers that may have what this one lacks."""
    return [other for other in may_return() if other != name]


def may_return() -> list[str]:
    """Workers that may have what others lack. Includes paused ones, since they may be resumed."""
    rows = alive().filter(reachable=True).exclude(state=Worker.State.FAULTY)
    return list(rows.values_list("name", flat=True))


# Other workers that are idle and claim executions. The desired state (`wish`) applies at once, `state` with
# the next heartbeat. Parameters: seconds after which a heartbeat is too old; the worker's name.
IDLE_OTHERS_SQL = """
    SELECT name FROM workflows_worker
    WHERE idle AND reachable AND state = 'active' AND wish = 'work'
      AND heartbeat_at > now() - make_interval(secs => %s) AND name <> %s
"""


def idle_others(*, name: str) -> list[str]:
    """Other workers that are idle and claim executions."""
    cursor = rows.prepared(IDLE_OTHERS_SQL, idle_others_parameters(name))
    return [row[0] for row in cursor.fetchall()]


def idle_others_parameters(name: str) -> list[Any]:
    return [settings.RENEW_SECONDS * BEATS, name]


def is_wanted_elsewhere(execution_id: uuid.UUID, *, name: str) -> bool:
    """Whether an idle worker could run this staged execution instead.

    Only the first staged executions in the order count, as many as there are idle workers: one free slot does
    not make the whole fleet return its staged executions.
    """
    idle = idle_others(name=name)
    if not idle:
        return False
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT id FROM workflows_execution
            WHERE status = 'pending' AND claim_token IS NOT NULL AND posted_at IS NOT NULL
              AND NOT (%(idle)s::varchar[] <@ (excluded || lacking))
            ORDER BY turn, created_at LIMIT %(count)s
            """,
            {"idle": idle, "count": len(idle)},
        )
        return execution_id in {row[0] for row in cursor.fetchall()}


def are_ours(prompt_ids: Iterable[str]) -> bool:
    """Whether any of these prompts is a live execution of ours."""
    ids = [id_ for id_ in prompt_ids if _is_uuid(id_)]
    return Execution.objects.filter(id__in=ids, status__in=ALIVE).exists()


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def record_heartbeat(*, name: str, **columns: Any) -> None:
    """Write the worker's row and heartbeat. The desired state is not changed."""
    Worker.objects.update_or_create(name=name, defaults={**columns, "heartbeat_at": Now()})


def desired_state_of(name: str) -> Worker.DesiredState:
    """The state an operator wants for this worker; WORK by default."""
    found = Worker.objects.filter(name=name).values_list("desired_state", flat=True).first()
    return Worker.DesiredState(found) if found else Worker.DesiredState.WORK


def set_desired_state(*, name: str, state: Worker.DesiredState) -> Worker:
    """Set a worker's desired state and record it in the audit log. Raises NotFound.

    It persists across restarts of the worker until changed. A live worker applies it within moments; setting
    the same state again has no effect.
    """
    with transaction.atomic():
        worker = Worker.objects.select_for_update().filter(name=name).first()
        if worker is None:
            raise NotFound(f"There is no worker {name[:200]}")
        if worker.desired_state != state:
            Worker.objects.filter(name=name).update(desired_state=state, desired_state_at=Now())
            changes = {"desired_state": (worker.desired_state, state.value)}
            audit.record(ACTIONS[state], on=worker, changes=changes)
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_notify(%s, %s)", [DESIRED_STATE_CHANNEL, name])
        worker.refresh_from_db()
    return worker


def set_idle(*, name: str, idle: bool) -> list[str]:
    """Record whether the worker is idle; return the other workers that hold a staged execution.

    The commit is asynchronous: the claim already writes False, and the next heartbeat would write either
    value.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH own AS (
                UPDATE workflows_worker SET idle = %(idle)s
                WHERE name = %(name)s AND set_config('synchronous_commit', 'off', true) = 'off'
            )
            SELECT DISTINCT worker FROM workflows_execution
            WHERE status = 'pending' AND claim_token IS NOT NULL AND worker <> %(name)s
            """,
            {"name": name, "idle": idle},
        )
        return [row[0] for row in cursor.fetchall()]


def mark_stopped(*, name: str) -> None:
    """The worker has stopped; its row is kept for operators and counts as silent."""
    Worker.objects.filter(name=name).update(
        idle=False, running=None, running_since=None, staged=None,
        heartbeat_at=Now() - timedelta(days=1),
    )  # fmt: skip
