"""What this worker runs, as Celery's inspect commands, heartbeats and so Flower see it.

Celery counts its own requests as active; the task that only wakes a worker is none of them, and what runs
on the GPU stands there in its place.
"""

from __future__ import annotations

import os
import time
from typing import Any
from uuid import UUID

from celery.worker import state
from celery.worker.control import Panel

from workflows import task_events
from workflows.queue.claims import Claim

# Control commands that would stop a worker's work without anybody noticing, or that mean nothing here:
# executions are cancelled through the API, the console or Flower.
DISABLED_COMMANDS = (
    "add_consumer", "autoscale", "cancel_consumer", "pool_grow", "pool_restart", "pool_shrink",
    "rate_limit", "revoke", "revoke_by_stamped_headers", "terminate", "time_limit",
)  # fmt: skip


class _Task:
    """What Celery asks of an active request's task: executions are never redelivered by the broker."""

    acks_late = True


class ExecutionRequest:
    """An execution in the place of Celery's Request: what `inspect active` shows."""

    task = _Task
    acknowledged = True

    def __init__(self, claim: Claim) -> None:
        self.id = str(claim.execution_id)
        self.name = task_events.TASK
        self._hostname = task_events.hostname_here(claim.worker)
        self._began = time.time()
        self._description = {"user": claim.username, "priority": claim.priority, "models": claim.models}

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002  (Celery's signature)
        return {
            "id": self.id,
            "name": self.name,
            "args": [],
            "kwargs": self._description,
            "type": self.name,
            "hostname": self._hostname,
            "time_start": self._began,
            "acknowledged": True,
            "delivery_info": {"exchange": "", "routing_key": "gpu", "priority": None, "redelivered": False},
            "worker_pid": os.getpid(),
        }


_running: dict[UUID, ExecutionRequest] = {}  # by claim; Celery's own sets hold weak references


def begin(claim: Claim) -> None:
    """It runs on this worker's GPU from now on."""
    request = _running[claim.token] = ExecutionRequest(claim)
    state.task_accepted(request)


def end(claim: Claim) -> None:
    """It does not run here any more. Safe to call for what had not begun."""
    request = _running.pop(claim.token, None)
    if request is not None:
        state.active_requests.discard(request)


def hide(task_id: str | None) -> None:
    """This task of Celery's only wakes the worker: it is not what the worker does."""
    request = state.requests.get(task_id or "")
    if request is not None:
        state.active_requests.discard(request)


def disable_commands() -> None:
    for name in DISABLED_COMMANDS:
        Panel.data.pop(name, None)
