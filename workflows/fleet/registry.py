"""The rows of workers: heartbeats, who is there, and what operators want of them."""

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
from comfyserve.ttl_cache import TtlCache
from workflows.models import ALIVE, Execution, Worker

BEATS = 3  # missed, and a worker is silent
WISH_CHANNEL = "comfyserve_wish"  # NOTIFY with the name of a worker of which an operator wants something else
ACTIONS = {
    Worker.DesiredState.WORK: "worker.resume",
    Worker.DesiredState.PAUSE: "worker.pause",
    Worker.DesiredState.DRAIN: "worker.drain",
}


def alive() -> QuerySet[Worker]:
    """Those whose heartbeat is not older than BEATS beats."""
    return Worker.objects.filter(heartbeat_at__gt=Now() - timedelta(seconds=settings.RENEW_SECONDS * BEATS))


any_alive_lately = TtlCache(lambda: alive().exists())


def taking() -> QuerySet[Worker]:
    """Those that take executions. The wish holds at once, the state follows with the next heartbeat."""
    return alive().filter(state=Worker.State.ACTIVE, wish=Worker.DesiredState.WORK, reachable=True)


def others_alive(*, name: str) -> list[str]:
    """Other workers that may have what this one lacks."""
    return [other for other in hoped_for() if other != name]


def hoped_for() -> list[str]:
    """Those that may have what others lack. A paused one may be resumed: what needs it waits."""
    rows = alive().filter(reachable=True).exclude(state=Worker.State.FAULTY)
    return list(rows.values_list("name", flat=True))


def idle_others(*, name: str) -> list[str]:
    """Other workers whose running slot is free."""
    return list(taking().filter(idle=True).exclude(name=name).values_list("name", flat=True))


def is_wanted_elsewhere(execution_id: uuid.UUID, *, name: str) -> bool:
    """Whether an idle worker waits for this staged execution, which may run there.

    So many of the staged ones are wanted as workers are idle, the first in the order: one free slot does not
    bring back what a whole fleet has staged.
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
    """Whether any of these prompts is an execution of ours that has not ended."""
    ids = [id_ for id_ in prompt_ids if _is_uuid(id_)]
    return Execution.objects.filter(id__in=ids, status__in=ALIVE).exists()


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def beat(*, name: str, **columns: Any) -> None:
    """Write the worker's row, heartbeat now. What an operator wants of it stays."""
    Worker.objects.update_or_create(name=name, defaults={**columns, "heartbeat_at": Now()})


def wish_of(name: str) -> Worker.DesiredState:
    """What an operator wants of this worker; to work, where nobody said anything else."""
    found = Worker.objects.filter(name=name).values_list("wish", flat=True).first()
    return Worker.DesiredState(found) if found else Worker.DesiredState.WORK


def ask(*, name: str, wish: Worker.DesiredState) -> Worker:
    """Want something else of this worker, and note who did. NotFound where there is none of that name.

    It survives the worker, and holds until somebody wants something else. A worker that lives obeys within
    a moment; asked again for the same, nothing happens.
    """
    with transaction.atomic():
        worker = Worker.objects.select_for_update().filter(name=name).first()
        if worker is None:
            raise NotFound(f"There is no worker {name[:200]}")
        if worker.wish != wish:
            Worker.objects.filter(name=name).update(wish=wish, wished_at=Now())
            audit.record(ACTIONS[wish], on=worker, changes={"wish": (worker.wish, wish.value)})
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_notify(%s, %s)", [WISH_CHANNEL, name])
        worker.refresh_from_db()
    return worker


def set_idle(*, name: str, idle: bool) -> list[str]:
    """Note it; other workers that hold an execution which waits behind the one they run.

    False is written by the claim already, and the next heartbeat would say either: the commit does not wait
    for the disk.
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


def gone(*, name: str) -> None:
    """It has stopped; the row stays for the operator, silent."""
    Worker.objects.filter(name=name).update(
        idle=False, running=None, running_since=None, staged=None,
        heartbeat_at=Now() - timedelta(days=1),
    )  # fmt: skip
