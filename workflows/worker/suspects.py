"""Finds out which execution kills its worker, at no cost to the others.

Worker processes die of what they read: input files, ComfyUI's history, outputs. Whatever a process held when
it died is suspected. As long as suspects are here, such work is done for one execution at a time, and the row
of a suspect says so meanwhile: if the process dies again, that one is to blame
(`state_machine.fail_if_deadly`).
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

LOOK_SECONDS = 0.5  # between signs of life while another is handled
LONGEST_WAIT = 45.0  # seconds; then it goes on beside the other


class Suspects:
    def __init__(self) -> None:
        self._held: set[UUID] = set()  # tokens of claims
        self._handling = threading.Lock()

    def hold(self, claim: Claim) -> None:
        if claim.losses:
            self._held.add(claim.token)

    def release(self, claim: Claim) -> None:
        self._held.discard(claim.token)

    @contextmanager
    def handling(self, claim: Claim, *, alive: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Around work in which the execution could kill this process; `alive` is called while it waits."""
        if not self._held or not self._acquire(alive):
            yield
            return
        try:
            if claim.losses:
                self._note(claim, alone=True)
            yield
        finally:  # also of what fails: this process lives
            if claim.losses:
                self._note(claim, alone=False)
            self._handling.release()

    def _acquire(self, alive: Callable[[], object]) -> bool:
        until = time.monotonic() + LONGEST_WAIT
        while time.monotonic() < until:
            if self._handling.acquire(timeout=LOOK_SECONDS):
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
