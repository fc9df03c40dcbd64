"""What the operator sees of executions."""

from __future__ import annotations

from . import execution_admin, webhook_admin  # noqa: F401
