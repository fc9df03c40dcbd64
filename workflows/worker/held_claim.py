"""A claim in the hands of this worker."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

from comfyserve import logs
from workflows.queue.claims import Claim

from .runner import Runner

ALIVE_SECONDS = 120.0  # a claim whose thread shows no sign of life for this long is not renewed any more


class Held:
    """A claim that this worker holds, running or being collected."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.runner: Runner | None = None
        self.queued = False  # ended in ComfyUI, waiting for a free collector
        self._abandoned = False
        self._alive_at = time.monotonic()

    def alive(self) -> bool:
        """Report that its thread is alive; return whether the claim is still wanted."""
        self._alive_at = time.monotonic()
        return not self._abandoned

    @property
    def is_responsive(self) -> bool:
        latest = max(self._alive_at, self.runner.alive_at if self.runner else 0.0)
        return self.queued or time.monotonic() - latest < ALIVE_SECONDS

    def named_in_logs(self) -> AbstractContextManager[None]:
        """Bind the execution, its user and its request id to the log records written meanwhile."""
        claim = self.claim
        return logs.bound(
            execution_id=str(claim.execution_id), user_id=claim.user_id, request_id=claim.request_id or None
        )

    def abandon(self) -> None:
        self._abandoned = True
        if self.runner is not None:
            self.runner.abandon()
