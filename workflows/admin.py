"""What the operator sees of executions, workers and webhooks."""

from __future__ import annotations

from . import execution_admin, webhook_admin, worker_admin  # noqa: F401
