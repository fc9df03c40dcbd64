"""What this worker runs, as reported by Celery's inspect commands and heartbeats, and therefore by Flower.

Celery counts its own requests as active. The task that only wakes a worker is not shown; the executions on
the GPU are shown instead.
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

# Control commands that would silently stop the worker's work, or that do not apply: executions are cancelled
# through the API, the console or Flower.
DISABLED_COMMANDS = (
    "add_consumer", "autoscale", "cancel_consumer", "pool_grow", "pool_restart", "pool_shrink",
    "rate_limit", "revoke", "revoke_by_stamped_headers", "terminate", "time_limit",
)  # fmt: skip


class _Task:
    """The attributes Celery reads from an active request's task. The broker never redelivers executions."""

    acks_late = True


class ExecutionRequest:
    """An execution in place of Celery's Request: what `inspect active` shows."""

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


_running: dict[UUID, ExecutionRequest] = {}  # by claim token; Celery's own sets hold weak references


def begin(claim: Claim) -> None:
    """Report the execution as running on this worker's GPU."""
    request = _running[claim.token] = ExecutionRequest(claim)
    state.task_accepted(request)


def end(claim: Claim) -> None:
    """Stop reporting it. Safe to call for an execution that never started."""
    request = _running.pop(claim.token, None)
    if request is not None:
        state.active_requests.discard(request)


def hide(task_id: str | None) -> None:
    """Do not report this Celery task: it only wakes the worker."""
    request = state.requests.get(task_id or "")
    if request is not None:
        state.active_requests.discard(request)


def disable_commands() -> None:
    for name in DISABLED_COMMANDS:
        Panel.data.pop(name, None)
