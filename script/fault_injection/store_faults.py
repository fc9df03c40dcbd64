"""Storage faults: PostgreSQL, Valkey, full disks; and clock faults."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial

import psycopg
import redis
import requests

from script.fault_injection.cluster import GPUS, Cluster
from script.fault_injection.disks import Disk
from script.fault_injection.fault import BRIEF, CannotBegin, Fault, Undo, nothing, wait_in
from script.fault_injection.parts import Part
from script.fault_injection.process_faults import stop
from script.harness import graphs

WRITABLE = "-c default_transaction_read_only=off"
# Less than the clock skew that S3 tolerates in a signature (15 minutes).
WRONG_BY = (-600.0, -90.0, 90.0, 600.0)
# Retries of webhooks wait for as much longer after the jump back.
DATABASE_WRONG_BY = (-100.0, -30.0, 30.0, 100.0)
UNFLUSHED = """
    SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn())::bigint AS bytes
    FROM workflows_execution WHERE claim_token IS NOT NULL AND posted_at IS NULL
        AND pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn() LIMIT 1
"""
WAITS_FOR_US = "SELECT pid FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"


def of(cluster: Cluster, chance: random.Random) -> Iterator[Fault]:
    yield from _of_postgres(cluster)
    yield Fault("Valkey emptied", ("Valkey",), partial(_empty, cluster), (BRIEF,))
    for name, disk in cluster.disks.items():
        kind, _, target = name.partition(" of ")
        part = cluster.parts[target]
        yield Fault(f"{kind} full", (target,), partial(_fill, disk, part), ((3.0, 15.0),))
    if cluster.clocks.available:
        for name in (*GPUS, "rest", "web", "beat"):
            part = cluster.parts[name]
            begin = partial(_wrong_clock, cluster, part, chance)
            yield Fault(f"clock of {part.kind} wrong, then set", (name,), begin, ((5.0, 20.0),))
        jumps = partial(_jump_database_clock, cluster, chance)
        yield Fault("clock of PostgreSQL jumps there and back", ("PostgreSQL",), jumps, ((5.0, 20.0),))


def _of_postgres(cluster: Cluster) -> Iterator[Fault]:
    postgres, target = cluster.parts["PostgreSQL"], ("PostgreSQL",)
    for how, number in (("fast", signal.SIGINT), ("immediately", signal.SIGQUIT)):
        restart = partial(stop, postgres, number)
        yield Fault(f"PostgreSQL restarted {how}", target, restart, (BRIEF, (2.0, 10.0)))
    yield Fault("PostgreSQL frozen", target, partial(_freeze, postgres), ((0.5, 4.0), (5.0, 12.0)))
    yield Fault("PostgreSQL sessions ended", target, partial(_end_sessions, cluster), (BRIEF,))
    yield Fault("PostgreSQL read-only", target, partial(_read_only, cluster), (BRIEF, (3.0, 15.0)))
    killed = partial(_kill_unflushed, cluster, postgres)
    yield Fault("PostgreSQL killed with an unflushed commit", target, killed, (BRIEF, (2.0, 8.0)))
    held = partial(_hold_row, cluster)
    yield Fault("row held by a forgotten session", target, held, ((5.0, 25.0),))
    frozen = partial(_freeze_with_a_row, cluster)
    yield Fault("web frozen inside a transaction", ("web", "PostgreSQL"), frozen, ((5.0, 25.0),))


def _freeze(part: Part) -> Undo:
    part.freeze()
    return part.thaw


def _connect(cluster: Cluster) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(cluster.database_url, autocommit=True, connect_timeout=5, options=WRITABLE)


def _end_sessions(cluster: Cluster) -> Undo:
    with _connect(cluster) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
    return nothing


def _read_only(cluster: Cluster) -> Undo:
    """Read-only, as a primary becomes in a failover; also for sessions that are already open."""

    def turn(how: str) -> None:
        with _connect(cluster) as connection:
            connection.execute(f"ALTER SYSTEM {how} default_transaction_read_only{' = on' * (how == 'SET')}")
            connection.execute("SELECT pg_reload_conf()")

    turn("SET")
    return partial(turn, "RESET")


def _kill_unflushed(cluster: Cluster, postgres: Part) -> Undo:
    """SIGKILL for the whole server while the claim of an execution is committed, but not on disk."""
    (size,) = wait_in(cluster.database_url, UNFLUSHED)
    postgres.kill_family()
    print(f"  {size} bytes of committed WAL were not flushed", flush=True)
    return postgres.start


# -- locks ---------------------------------------------------------------------------------------------
def _hold_row(cluster: Cluster) -> Undo:
    """An open psql transaction locks a running execution's row, and is left idle."""
    held = "SELECT id FROM workflows_execution WHERE claim_token IS NOT NULL ORDER BY random() LIMIT 1"
    (id_,) = wait_in(cluster.database_url, held)
    session = psycopg.connect(cluster.database_url, connect_timeout=5)
    session.execute("SELECT FROM workflows_execution WHERE id = %s FOR UPDATE", [id_])

    def end() -> None:
        try:
            session.close()
        except psycopg.Error:
            pass  # the server was restarted meanwhile

    return end


def _freeze_with_a_row(cluster: Cluster) -> Undo:
    """The web process stops while it holds the lock of a running execution's row."""
    web = cluster.parts["web"]
    try:
        execution_id = cluster.operator.execute(
            graphs.sleep(6, seed=cluster.next_number()), metadata={"number": cluster.next_number()}
        )
        with psycopg.connect(cluster.database_url, connect_timeout=5) as session:
            session.execute("SELECT FROM workflows_execution WHERE id = %s FOR UPDATE", [execution_id])
            threading.Thread(target=_cancel, args=(cluster, execution_id), daemon=True).start()
            wait_in(cluster.database_url, WAITS_FOR_US, session.info.backend_pid)
            web.freeze()
    except (psycopg.Error, requests.RequestException, AssertionError) as exc:
        raise CannotBegin(str(exc)[:200]) from exc
    return web.thaw


def _cancel(cluster: Cluster, execution_id: str) -> None:
    try:
        cluster.operator.post(f"/workflows/{execution_id}/cancel")
    except requests.RequestException:
        pass  # the process that should respond is frozen


# -- Valkey, disks, clocks -----------------------------------------------------------------------------
def _empty(cluster: Cluster) -> Undo:
    with redis.Redis.from_url(cluster.valkey.url(), socket_timeout=5) as client:
        client.flushall()
    return nothing


def _fill(disk: Disk, part: Part) -> Undo:
    disk.fill()

    def empty() -> None:
        disk.empty()
        if not part.process.alive:
            part.start()

    return empty


def _wrong_clock(cluster: Cluster, part: Part, chance: random.Random) -> Undo:
    """Start it with a wrong clock, which jumps to the right time during work."""
    cluster.clocks.set(part.name, chance.choice(WRONG_BY))
    part.kill()
    part.start()
    return partial(cluster.clocks.set, part.name, 0.0)


def _jump_database_clock(cluster: Cluster, chance: random.Random) -> Undo:
    """While it runs: leases, holds and due times are judged by this clock."""
    seconds = chance.choice(DATABASE_WRONG_BY)
    cluster.clocks.set("PostgreSQL", seconds)
    back = partial(cluster.clocks.set, "PostgreSQL", 0.0)
    try:
        wait_in(
            cluster.database_url,
            "SELECT 1 WHERE abs(extract(epoch FROM clock_timestamp()) - %s) < 10",
            time.time() + seconds,
        )
    except CannotBegin:
        back()
        raise
    return back
