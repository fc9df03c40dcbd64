"""The Django admin of executions, workers and webhooks.

May import: worker, queue and everything below them; not api or streaming. Begin with `executions` (the list
and its page); `actions` is what an operator may do, `detail` what an execution's page shows.
"""

from __future__ import annotations

from . import deliveries, executions, node_rules, webhooks, workers  # noqa: F401
