"""Errors of communication with a ComfyUI.

ComfyUIError
├── Unreachable    no connection, timeout, 5xx, a response that is not ComfyUI's: a system error
├── Refused        ComfyUI processed and rejected the request (400, 413): the sender's error
└── NotFound       no such file (404 and similar)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfyui.types import NodeErrors


class ComfyUIError(Exception):
    """Base class of this package's errors."""


class Unreachable(ComfyUIError):
    """No usable response.

    `sent` is False only when the request certainly did not reach ComfyUI. If it is True, a POST may have
    taken effect: check (`Client.whereabouts`) before repeating it.
    `status` is the HTTP status, if there was a response. A 500 to a submission means that ComfyUI failed
    while handling it, before or after queueing it; the same graph will often make it fail again.
    `access_denied`: something in front of ComfyUI responded instead (a proxy, a login page, a limit), so
    nothing was accepted, and the workflow is not the cause.
    `too_large`: a proxy's limit on the size of requests, or a proxy that answers everything so.
    """

    # Redirects, and authentication in front of ComfyUI, which itself never sends these to our requests.
    TURNED_AWAY = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405, 407, 429})
    # A proxy that could not reach ComfyUI, or lost the connection.
    GATEWAY = frozenset({502, 503, 504})

    def __init__(self, message: str, *, sent: bool, status: int | None = None) -> None:
        super().__init__(message)
        self.sent = sent
        self.status = status

    @property
    def access_denied(self) -> bool:
        # A page with status 200 instead of ComfyUI's JSON comes from a proxy too.
        return self.status is not None and (self.status in self.TURNED_AWAY or self.status < 300)

    @property
    def garbled(self) -> bool:
        """A success status with a body that is not ComfyUI's, or incomplete. The request may have taken
        effect.
        """
        return self.status is not None and self.status < 300

    @property
    def too_large(self) -> bool:
        return self.status == 413

    @property
    def by_gateway(self) -> bool:
        return self.status in self.GATEWAY


class Refused(ComfyUIError):
    """ComfyUI rejects the request, and would reject it again.

    `type`, `message` and `details` are ComfyUI's description of the error; `node_errors`, by node id, may be
    empty (a cycle, an unknown class). `raw` is the response as received.
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
    """ComfyUI has no such file, or does not serve files of that name."""
