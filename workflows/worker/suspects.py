"""Identifies the execution that kills its worker, without affecting the others.

Worker processes can be killed by what they read: input files, ComfyUI's history, outputs. Everything that a
process held when it died becomes suspect. While suspects are held, such work is done for one execution at a
time, and the suspect's row records it: if the process dies again, that execution is the cause
(`state_machine.fail_if_killed_worker`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from comfyserve.db import connections
from workflows.queue import claims
from workflows.queue.claims import Claim

logger = logging.getLogger(__name__)

CHECK_SECONDS = 0.5  # between calls of `alive` while another execution is handled
LONGEST_WAIT = 45.0  # seconds; then it proceeds concurrently


class Suspects:
    def __init__(self) -> None:
        self._held: set[UUID] = set()  # claim tokens
        self._handling = threading.Lock()

    def hold(self, claim: Claim) -> None:
        if claim.losses:
            self._held.add(claim.token)

    def release(self, claim: Claim) -> None:
        self._held.discard(claim.token)

    @contextmanager
    def handling(self, claim: Claim, *, alive: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Wrap work in which the execution could kill this process; `alive` is called while waiting."""
        if not self._held or not self._acquire(alive):
            yield
            return
        try:
            if claim.losses:
                self._note(claim, alone=True)
            yield
        finally:  # also after an error: the process survived
            if claim.losses:
                self._note(claim, alone=False)
            self._handling.release()

    def _acquire(self, alive: Callable[[], object]) -> bool:
        until = time.monotonic() + LONGEST_WAIT
        while time.monotonic() < until:
            if self._handling.acquire(timeout=CHECK_SECONDS):
                return True
            alive()
        return False

    @staticmethod
    def _note(claim: Claim, *, alone: bool) -> None:
        try:
            with connections.step():
                claims.note_alone(claim, alone=alone)
        except connections.UNAVAILABLE as exc:
            logger.warning("not noted that %s is handled alone: %s", claim.execution_id, exc)
