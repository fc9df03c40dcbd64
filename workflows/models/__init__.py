"""Tables of executions, webhooks, workers, metrics. Every package here may import them; they import none.

Start with `execution`. Only `workflows.queue.state_machine` and `requeueing` may change a status.
"""

from __future__ import annotations

from .batch import Batch
from .execution import (
    ALIVE,
    TERMINAL,
    Execution,
    FailureCause,
    Flow,
    Graph,
    Held,
    Output,
    Priority,
    Status,
)
from .log import Level, LineKind, LogLine
from .metrics import Delta, Tally
from .node_rule import NodeRule
from .output_delivery import OutputDelivery
from .webhook import DEFAULT_EVENTS, Delivery, DeliveryAttempt, Webhook, WebhookEvent, WebhookSecret
from .worker import Duty, ObjectInfo, Worker

__all__ = [
    "ALIVE",
    "DEFAULT_EVENTS",
    "TERMINAL",
    "Batch",
    "Delivery",
    "DeliveryAttempt",
    "Delta",
    "Duty",
    "Execution",
    "FailureCause",
    "Flow",
    "Graph",
    "Held",
    "Level",
    "LineKind",
    "LogLine",
    "NodeRule",
    "ObjectInfo",
    "Output",
    "OutputDelivery",
    "Priority",
    "Status",
    "Tally",
    "Webhook",
    "WebhookEvent",
    "WebhookSecret",
    "Worker",
]
