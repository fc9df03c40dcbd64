"""What can go wrong between us and a ComfyUI.

ComfyUIError
├── Unreachable    no connection, time-out, 5xx, an answer that is not ComfyUI's: the system's fault
├── Refused        ComfyUI read what was sent and said no (400, 413): the sender's fault
└── NotFound       no such file (404 and its kin)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfyui.types import NodeErrors


class ComfyUIError(Exception):
    """Anything that this package raises about a ComfyUI."""


class Unreachable(ComfyUIError):
    """No usable answer.

    `sent` is False only when the request certainly did not reach ComfyUI. Where it is True, a POST may
    have had its effect: look (`Client.whereabouts`) before doing it again.
    `status` is the HTTP status where there was an answer. A 500 to a submission says that ComfyUI
    stumbled over it, before or after queueing it; the same graph will often make it stumble again.
    """

    def __init__(self, message: str, *, sent: bool, status: int | None = None) -> None:
        super().__init__(message)
        self.sent = sent
        self.status = status


class Refused(ComfyUIError):
    """ComfyUI does not want what was sent, and will not want it the next time.

    `type`, `message` and `details` are ComfyUI's words for the whole; `node_errors`, by node id, may be
    empty (a cycle, an unknown class). `raw` is its answer as it came.
    """

    def __init__(
        self,
        *,
        type: str,  # noqa: A002  ComfyUI's name for it
        message: str,
        details: str = "",
        node_errors: Mapping[str, NodeErrors] | None = None,
        raw: Any = None,
    ) -> None:
        super().__init__(f"{type}: {message}" + (f" ({details})" if details else ""))
        self.type = type
        self.message = message
        self.details = details
        self.node_errors = dict(node_errors or {})
        self.raw = raw


class NotFound(ComfyUIError):
    """ComfyUI has no such file, or will not give one of that name."""
