"""Send fewer `progress_state` messages for large workflows.

ComfyUI sends the state of every node so far whenever one node starts or ends: for hundreds of quick nodes
that is hundreds of megabytes of JSON, which take longer to write and to read than the nodes take to run. All
messages share one queue, so those of the next prompts wait behind them, for minutes.

A small workflow's messages are left alone. For a large one, the time between two grows with its number of
nodes. Each message has the whole state, so the next one makes up for those that were skipped.
"""

from __future__ import annotations

import time
from typing import Any

import execution

FEW_NODES = 50
SECONDS_PER_NODE = 0.000_1  # about ten times what building, sending and reading a node's state takes


def limit() -> None:
    """Once, when ComfyUI loads its custom nodes. Older ComfyUIs do not send these messages."""
    stock = getattr(execution, "WebUIProgressHandler", None)
    if stock is not None:
        execution.WebUIProgressHandler = _limited(stock)


def _limited(stock: Any) -> Any:
    class Limited(stock):
        _next = 0.0  # monotonic seconds

        def _send_progress_state(self, prompt_id: str, nodes: dict[str, Any]) -> None:
            now = time.monotonic()
            if len(nodes) > FEW_NODES:
                if now < self._next:
                    return
                self._next = now + SECONDS_PER_NODE * len(nodes)
            super()._send_progress_state(prompt_id, nodes)

    return Limited
