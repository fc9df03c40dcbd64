"""The operator's console for executions, workers and webhooks.

May import: worker, queue and everything below them; not api or streaming. Begin with `executions` (the list
and its page); `actions` is what an operator may do, `detail` what the page of one execution shows.
"""

from __future__ import annotations

from . import executions, node_rules, webhooks, workers  # noqa: F401
