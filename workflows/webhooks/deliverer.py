"""Sending what is due, for webhooks and for outputs alike: the threads, claims and delays between tries."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from comfyserve import outages
from comfyserve.db import connections, rows
from comfyserve.db.locks import AdvisoryLock

logger = logging.getLogger(__name__)

INTERNAL_ERROR = "An internal error of ours; the server's log has the details"


class Claimed(Protocol):
    """A claimed delivery."""

    @property
    def id(self) -> int: ...
    @property
    def execution_id(self) -> UUID: ...


C = TypeVar("C", bound=Claimed)


def claim(kind: type[C], sql: str, parameters: Mapping[str, Any], *, lock: AdvisoryLock) -> list[C]:
    """Run `sql`, which claims due deliveries, in one process at a time; its rows as instances of `kind`."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, 0)", [lock])
        cursor.execute(sql, parameters)
        return rows.as_dataclasses(kind, cursor)


def backoff(tries: int, *, longest: float) -> float:
    """Seconds until the next try, after so many."""
    return outages.delay_after(tries, first=settings.WEBHOOK_FIRST_DELAY_SECONDS, longest=longest)


def is_too_old(age: float) -> bool:
    """Whether to give up at this age, in seconds since the first try."""
    return bool(age > settings.WEBHOOK_RETRY_HOURS * 3600)


class Deliverer:
    """Polls for due deliveries every POLL_SECONDS and whenever it is woken, and has them sent.

    `take` claims at most `limit` of them; `deliver` sends one, in one of `senders` threads. `name` is what
    they are called in the log.
    """

    POLL_SECONDS = 1.0

    def __init__(
        self,
        name: str,
        *,
        senders: int,
        take: Callable[..., Sequence[Claimed]],
        deliver: Callable[..., None],
    ) -> None:
        self._name = name
        self._take, self._send = take, deliver
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._free = senders
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(senders, thread_name_prefix=name)
        self._thread = threading.Thread(target=self._run, name=f"{name}s", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._woken.set()

    def stop(self) -> None:
        """Claim nothing more. Does not wait."""
        self._stopping.set()
        self._woken.set()

    def close(self) -> None:
        """Wait for deliveries in progress: at most one timeout, plus recording."""
        self._thread.join(timeout=5)
        self._pool.shutdown(wait=True)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                self._dispatch()
            except connections.UNAVAILABLE as exc:
                logger.warning("%ss are delayed, the database is unavailable: %s", self._name, exc)
            except Exception:  # this thread must survive: it does all the polling
                logger.exception("sending of %ss failed", self._name)
            self._woken.wait(self.POLL_SECONDS)

    def _dispatch(self) -> None:
        with self._lock:
            free = self._free
        if not free:
            return
        with connections.step():
            found = self._take(limit=free)
        with self._lock:
            self._free -= len(found)
        for taken in found:
            self._pool.submit(self._deliver, taken)

    def _deliver(self, taken: Claimed) -> None:
        try:
            self._send(taken, stop=self._stopping)
        except connections.UNAVAILABLE as exc:  # only during shutdown
            logger.warning("%s %d of %s is left: %s", self._name, taken.id, taken.execution_id, exc)
        except Exception:
            # Left claimed: it is due again once the claim expires.
            logger.exception("%s %d of %s failed unexpectedly", self._name, taken.id, taken.execution_id)
        finally:
            with self._lock:
                self._free += 1
            self.wake()  # the next delivery of this execution or host may be due
