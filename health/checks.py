"""The checks of `/health/detailed`: each reports one dependency, as `Service` entries.

A check may block or raise: `detailed` handles timeouts and errors.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
import redis
from django.conf import settings
from django.core.files.storage import default_storage
from django.db import connection
from redis.backoff import NoBackoff
from redis.retry import Retry

from comfyserve.db import sessions
from health import celery_beats

logger = logging.getLogger(__name__)

Condition = Literal["healthy", "degraded", "unhealthy"]


@dataclass(frozen=True)
class Service:
    """One entry of `services`."""

    name: str
    status: Condition
    response_time_ms: float | None = None
    error: str | None = None


@contextmanager
def _timed() -> Iterator[Callable[[], float]]:
    """Elapsed milliseconds, to one digit."""
    began = time.perf_counter()
    yield lambda: round((time.perf_counter() - began) * 1000, 1)


class Database:
    """PostgreSQL over a connection of its own: an exhausted pool does not mean that the server is down."""

    def __init__(self) -> None:
        self._connection: psycopg.Connection[Any] | None = None

    def __call__(self) -> list[Service]:
        with _timed() as elapsed:
            self.fetch("SELECT 1")
            return [Service("database", "healthy", elapsed())]

    def fetch(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows; a broken connection is reopened once. psycopg.Error if that fails."""
        if self._connection is not None and not self._connection.closed:
            try:
                return self._connection.execute(sql).fetchall()
            except psycopg.OperationalError:
                self._connection.close()
        self._connection = sessions.Connection.connect(**_connection_parameters(), autocommit=True)
        sessions.await_first_answer(self._connection)
        return self._connection.execute(sql).fetchall()


def _connection_parameters() -> dict[str, Any]:
    """Django's parameters, without those of its pool."""
    given = connection.get_connection_params()
    given.pop("pool", None)
    unwanted = ("context", "cursor_factory", "prepare_threshold", "server_side_binding", "isolation_level")
    return {key: value for key, value in given.items() if key not in unwanted}


class Redis:
    def __init__(self) -> None:
        self._client = redis.Redis.from_url(
            settings.REDIS_URL,
            socket_connect_timeout=0.5,
            socket_timeout=1.0,
            retry=Retry(NoBackoff(), 1),
        )

    def __call__(self) -> list[Service]:
        with _timed() as elapsed:
            self._client.ping()
            return [Service("redis", "healthy", elapsed())]


def storage() -> list[Service]:
    """Whether the storage responds: looks up one name, writes no object."""
    with _timed() as elapsed:
        default_storage.exists("health/probe")
        return [Service("storage", "healthy", elapsed())]


def celery() -> list[Service]:
    """An entry for each queue: whether any process serves it."""
    with _timed() as elapsed:
        served = celery_beats.served(celery_beats.processes())
        took = elapsed()
    return [
        Service(f"celery:{queue}", "healthy", took)
        if number
        else Service(f"celery:{queue}", "unhealthy", took, "No worker serves this queue")
        for queue, number in served.items()
    ]


def explain(exc: BaseException) -> str:
    """Safe for the public: what went wrong without hosts, names and passwords."""
    cause: BaseException | None = exc
    while cause is not None:
        text = str(cause)
        if isinstance(cause, ConnectionRefusedError) or "refused" in text.lower():
            return "Connection refused"
        if isinstance(cause, TimeoutError | redis.TimeoutError) or "timeout" in text.lower():
            return "No response in time"
        cause = cause.__cause__ or cause.__context__
    return f"Not available ({type(exc).__name__})"
