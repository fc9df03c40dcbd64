"""PostgreSQL, Redis, the storage, and the processes behind Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import redis as redis_client
from django.conf import settings
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import OperationalError, connection
from django.db.migrations.executor import MigrationExecutor

from comfyserve.db import pooling
from health import celery_beats, checks

from .findings import Finding, bad, good, note

OLDEST_POSTGRESQL = 140000
CLOCK_SECONDS = 2.0
PROBE = b"ComfyServe's doctor was here"


def database() -> Iterator[Finding]:
    host = f"{settings.DATABASES['default'].get('HOST')}:{settings.DATABASES['default'].get('PORT')}"
    try:
        began = time.perf_counter()
        checks.Database().fetch("SELECT 1")  # the pool would only report that it got no connection in time
    except psycopg.OperationalError as exc:
        said = str(exc).strip().splitlines()[0]
        yield bad("database", f"{host}: {said}", "Start PostgreSQL, or fix DATABASE_URL")
        return
    took = (time.perf_counter() - began) * 1000
    connection.ensure_connection()
    version = connection.pg_version  # type: ignore[attr-defined]
    seen = f"PostgreSQL {version // 10000}.{version % 10000} at {host}, {took:.0f} ms to connect"
    if version < OLDEST_POSTGRESQL:
        yield bad("database", seen, "PostgreSQL 14 or newer is needed")
    else:
        yield good("database", seen)
    try:
        pooling.check()
    except pooling.SharedSessions as exc:
        yield bad("database", str(exc), "GPU workers refuse to work until then")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('max_connections')::int, (SELECT count(*) FROM pg_stat_activity)"
        )
        allowed, used = cursor.fetchone()
    if used > allowed * 0.8:
        to_do = "Raise max_connections, or lower DATABASE_POOL_SIZE"
        yield note("database", f"{used} of {allowed} connections are in use", to_do)


def migrations() -> Iterator[Finding]:
    if not _database_answers():
        return
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        names = ", ".join(str(migration) for migration, _ in missing[:3])
        yield bad("migrations", f"{len(missing)} are missing ({names})", "Run manage.py migrate")
    else:
        yield good("migrations", "all applied")


def clock() -> Iterator[Finding]:
    if not _database_answers():
        return
    with connection.cursor() as cursor:
        before = time.time()
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float")
        middle = (before + time.time()) / 2
        difference = cursor.fetchone()[0] - middle
    seen = f"{abs(difference):.2f} s between this machine and the database"
    if abs(difference) > CLOCK_SECONDS:
        yield bad("clock", seen, "Synchronise both with a time server (chrony, systemd-timesyncd)")
    else:
        yield good("clock", seen)


def redis() -> Iterator[Finding]:
    client = redis_client.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=2, socket_timeout=2)
    try:
        began = time.perf_counter()
        about: dict[str, Any] = client.info()
        took = (time.perf_counter() - began) * 1000
    except redis_client.RedisError as exc:
        to_do = "Start Redis, or fix REDIS_URL; until then the service is degraded: no limits, slower starts"
        yield bad("redis", f"{_without_password(settings.REDIS_URL)}: {exc}", to_do)
        return
    name = "Valkey" if about.get("server_name") == "valkey" else "Redis"
    yield good("redis", f"{name} {about.get('valkey_version') or about['redis_version']}, {took:.0f} ms")
    if about.get("maxmemory") and about.get("maxmemory_policy") not in (
        "noeviction",
        "volatile-lru",
        "volatile-ttl",
    ):
        seen = f"maxmemory-policy is {about['maxmemory_policy']}: tickets may be evicted"
        yield note("redis", seen, "Set it to volatile-ttl or noeviction")


def celery() -> Iterator[Finding]:
    try:
        served = celery_beats.served(celery_beats.processes())
    except redis_client.RedisError:
        return
    for queue, number in served.items():
        if number:
            yield good("celery", f"queue {queue}: {number} worker{'s' if number > 1 else ''}")
        else:
            yield bad("celery", f"queue {queue}: no worker", f"Start one: script/worker {queue}")


def storage() -> Iterator[Finding]:
    """By writing and reading, as executions do."""
    began = time.perf_counter()
    name = default_storage.save(f"health/doctor-{uuid4().hex}", ContentFile(PROBE))
    try:
        with default_storage.open(name, "rb") as file:
            same = file.read() == PROBE
    finally:
        default_storage.delete(name)
    took = (time.perf_counter() - began) * 1000
    seen = f"{type(default_storage._wrapped).__name__}: write, read and delete took {took:.0f} ms"  # type: ignore[attr-defined]
    if same:
        yield good("storage", seen)
    else:
        yield bad(
            "storage", "what was read differs from what was written", "Check the storage server and its proxy"
        )


def _database_answers() -> bool:
    try:
        connection.ensure_connection()
    except OperationalError:
        return False  # reported once, by `database`
    return True


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
