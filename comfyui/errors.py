"""Errors of communication with a ComfyUI.

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
    """Base class of this package's errors."""


class Unreachable(ComfyUIError):
    """No usable answer.

    `sent` is False only when the request certainly did not reach ComfyUI. Where it is True, a POST may
    have had its effect: look (`Client.whereabouts`) before doing it again.
    `status` is the HTTP status where there was an answer. A 500 to a submission says that ComfyUI
    stumbled over it, before or after queueing it; the same graph will often make it stumble again.
    `turned_away` says that something before ComfyUI answered in its place (a proxy, a login page, a limit):
    nothing was accepted, and no workflow is to blame.
    """

    # Redirects, and authentication in front of ComfyUI, which itself never sends these to our requests.
    TURNED_AWAY = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405, 407, 429})
    # A proxy that did not reach ComfyUI, or lost the connection.
    GATEWAY = frozenset({502, 503, 504})

    def __init__(self, message: str, *, sent: bool, status: int | None = None) -> None:
        super().__init__(message)
        self.sent = sent
        self.status = status

    @property
    def turned_away(self) -> bool:
        # A page with 200 instead of ComfyUI's JSON comes from a proxy too.
        return self.status is not None and (self.status in self.TURNED_AWAY or self.status < 300)

    @property
    def garbled(self) -> bool:
        """A success that is not ComfyUI's: a page instead of its answer, or a part of it. What was sent may
        have had its effect."""
        return self.status is not None and self.status < 300

    @property
    def by_gateway(self) -> bool:
        return self.status in self.GATEWAY


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
    """ComfyUI has no such file, or does not serve that name."""
