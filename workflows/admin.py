"""What the operator sees of executions."""

from __future__ import annotations

from . import webhook_admin  # noqa: F401
