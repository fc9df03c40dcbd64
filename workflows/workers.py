"""The rows of workers: heartbeats, and who is there."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from django.db.models.functions import Now

from comfyserve import database
from comfyserve.lately import Lately

from .models import Execution, Status, Worker


def alive() -> QuerySet[Worker]:
    """Those whose heartbeat is not older than three beats."""
    return Worker.objects.filter(heartbeat_at__gt=Now() - timedelta(seconds=settings.RENEW_SECONDS * 3))


any_alive_lately = Lately(lambda: alive().exists())


def taking() -> QuerySet[Worker]:
    """Those that take executions."""
    return alive().filter(state=Worker.State.ACTIVE, reachable=True)


def others_alive(*, name: str) -> list[str]:
    return list(taking().exclude(name=name).values_list("name", flat=True))


def idle_others(*, name: str) -> list[str]:
    """Other workers whose running seat is free."""
    return list(taking().filter(idle=True).exclude(name=name).values_list("name", flat=True))


def staging_others(*, name: str) -> list[str]:
    """Other workers that hold an execution which waits behind the one they run."""
    return list(
        Execution.objects.filter(status=Status.PENDING, claim_token__isnull=False)
        .exclude(worker=name)
        .values_list("worker", flat=True)
        .distinct()
    )


def are_ours(prompt_ids: Iterable[str]) -> bool:
    """Whether any of these prompts is an execution of ours."""
    return Execution.objects.filter(id__in=[id_ for id_ in prompt_ids if _is_uuid(id_)]).exists()


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def beat(*, name: str, **columns: Any) -> str:
    """Write the worker's row, heartbeat now; the state that an operator or the worker itself gave it."""
    Worker.objects.update_or_create(name=name, defaults={**columns, "heartbeat_at": Now()})
    return str(Worker.objects.values_list("state", flat=True).get(name=name))


def set_state(*, name: str, state: Worker.State) -> None:
    Worker.objects.filter(name=name).update(state=state)


def set_idle(*, name: str, idle: bool) -> None:
    """The next heartbeat would say it too. False is written by the claim already."""
    with database.relaxed():
        Worker.objects.filter(name=name).update(idle=idle)


def gone(*, name: str) -> None:
    """It has stopped; the row stays for the operator, silent."""
    Worker.objects.filter(name=name).exclude(state=Worker.State.PAUSED).update(state=Worker.State.DRAINING)
    Worker.objects.filter(name=name).update(
        idle=False, running=None, running_since=None, staged=None,
        heartbeat_at=Now() - timedelta(days=1),
    )  # fmt: skip
