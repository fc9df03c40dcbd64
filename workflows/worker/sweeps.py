"""The worker thread that does its share of the fleet-wide duties: the reaper and other sweeps.

It is separate from the thread that renews leases, so that a slow or failing sweep costs no lease. Duties are
isolated from each other: one that fails is logged and retried after its interval.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta

from django.conf import settings

from comfyserve.db import connections
from workflows.metrics import store
from workflows.queue import clock, duties, holds, matching, requeueing, scheduling

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0  # interval of checks for due duties


def _fail_stale() -> None:
    requeueing.fail_stale(older_than=timedelta(hours=settings.MAX_PENDING_HOURS))


# Name, fleet-wide interval in seconds, function.
DUTIES: tuple[tuple[str, float, Callable[[], object]], ...] = (
    ("reap", 3.0, lambda: requeueing.reap()),
    ("backoff", 2.0, lambda: holds.lift_backoff()),
    ("quotas", 3.0, lambda: holds.lift_quotas()),
    ("lacking", 5.0, lambda: matching.lift()),
    ("order", 3.0, lambda: scheduling.settle_served()),
    ("fold", 3.0, lambda: store.fold()),
    ("stale", 60.0, _fail_stale),
    ("clock", 5.0, lambda: clock.pull_back()),
)


class Sweeper:
    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeps", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopping.wait(CHECK_SECONDS):
            sweep()


def sweep() -> None:
    """Run the duties that are due in the fleet. Never raises."""
    try:
        with connections.step():
            due = duties.take_due({name: seconds for name, seconds, _ in DUTIES})
    except connections.UNAVAILABLE as exc:
        logger.warning("sweeps wait, the database is unavailable: %s", exc)
        return
    except Exception:
        logger.exception("cannot determine which sweeps are due")
        return
    for name, _, do in DUTIES:
        if name in due:
            _isolated(name, do)


def _isolated(name: str, do: Callable[[], object]) -> None:
    try:
        with connections.step():
            do()
    except connections.UNAVAILABLE as exc:
        logger.warning("sweep %s waits, the database is unavailable: %s", name, exc)
    except Exception:
        logger.exception("sweep %s failed", name, extra={"action": "sweep_failed"})
