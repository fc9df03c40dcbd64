"""Nothing must be left over when all executions have ended: locks, leases, claims, slots, reservations."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from comfyserve.db.locks import AdvisoryLock
from script.fault_injection.cluster import GPUS, Cluster
from script.harness import graphs
from script.harness.waiting import wait_for

SETTLED_SECONDS = 20.0  # until heartbeats have reported the workers idle; what lasts longer is a leak
PROBES, PROBE_SECONDS = 4, 3.0  # executions that show that every worker still claims work
_IS_BACKEND_LOCK = f"locktype = 'advisory' AND classid = {int(AdvisoryLock.BACKEND)}"
BACKEND_LOCKS = f"SELECT count(*) FROM pg_locks WHERE {_IS_BACKEND_LOCK} AND granted"

NONE_OF = {
    "executions have not ended": "SELECT id FROM workflows_execution WHERE status IN ('pending', 'running')",
    "claims are left": "SELECT id FROM workflows_execution WHERE claim_token IS NOT NULL",
    "executions end twice in their log": """
        SELECT execution_id FROM workflows_logline
        WHERE kind = 'status' AND data->>'status' IN ('completed', 'failed', 'cancelled')
        GROUP BY 1 HAVING count(*) > 1""",
    "ended executions have no end in their log": """
        SELECT id FROM workflows_execution e WHERE NOT EXISTS (SELECT 1 FROM workflows_logline l
            WHERE l.execution_id = e.id AND l.kind = 'status' AND l.data->>'status' = e.status)""",
    "output files have no output row": """
        SELECT id FROM files_file f WHERE kind = 'output'
            AND NOT EXISTS (SELECT 1 FROM workflows_output o WHERE o.file_id = f.id)""",
    "outputs belong to executions that did not run": """
        SELECT o.id FROM workflows_output o JOIN workflows_execution e ON e.id = o.execution_id
        WHERE e.status = 'cancelled' OR e.started_at IS NULL""",
    "executions have no graph": """
        SELECT id FROM workflows_execution e
        WHERE NOT EXISTS (SELECT 1 FROM workflows_graph g WHERE g.execution_id = e.id)""",
    "sessions are idle inside a transaction": """
        SELECT pid FROM pg_stat_activity WHERE datname = current_database()
            AND state LIKE 'idle in transaction%' AND state_change < now() - interval '3 s'""",
    "transactions are older than 10 s": """
        SELECT pid FROM pg_stat_activity WHERE datname = current_database()
            AND backend_type = 'client backend' AND xact_start < now() - interval '10 s'""",
    "requests with an Idempotency-Key have no answer after five minutes": """
        SELECT id FROM accounts_idempotencyrecord
        WHERE status = 0 AND created_at < now() - interval '5 minutes'""",
}
BUSY_WORKERS = """
    SELECT name FROM workflows_worker
    WHERE running IS NOT NULL OR staged IS NOT NULL OR NOT idle OR state <> 'active' OR NOT reachable
"""
HELD_LOCKS = f"""
    SELECT pid, locktype, classid, objid FROM pg_locks
    WHERE pid <> pg_backend_pid() AND granted AND locktype <> 'virtualxid'
        AND NOT ({_IS_BACKEND_LOCK})
"""


def leaks(cluster: Cluster) -> Iterator[str]:
    for what, query in NONE_OF.items():
        found = [str(row[0]) for row in _lasting(cluster, query)]
        if found:
            yield f"{len(found)} {what}: {', '.join(found[:5])}"
    yield from _of_locks(cluster)
    yield from _of_workers(cluster)


def _lasting(cluster: Cluster, query: str) -> set[tuple[Any, ...]]:
    """The rows that the query finds for SETTLED_SECONDS on end: what is just under way is no leak."""
    end = time.monotonic() + SETTLED_SECONDS
    found = set(cluster.sql(query))
    while found and time.monotonic() < end:
        time.sleep(0.5)
        found &= set(cluster.sql(query))
    return found


def _of_locks(cluster: Cluster) -> Iterator[str]:
    if left := _lasting(cluster, HELD_LOCKS):
        yield f"locks are left: {sorted(map(str, left))[:5]}"
    if (count := cluster.sql(BACKEND_LOCKS)) != [(len(GPUS),)]:
        yield f"the lock of a backend is held {count} times by {len(GPUS)} workers"


def _of_workers(cluster: Cluster) -> Iterator[str]:
    try:
        wait_for(partial(_none_is_busy, cluster), seconds=SETTLED_SECONDS, what="all workers to be idle")
    except AssertionError:
        yield f"slots are still occupied, or workers not available: {cluster.sql(BUSY_WORKERS)}"
    yield from _of_probes(cluster)


def _none_is_busy(cluster: Cluster) -> bool:
    return not cluster.sql(BUSY_WORKERS)


def _of_probes(cluster: Cluster) -> Iterator[str]:
    """Submit as many executions as the workers can run and stage at once: each worker must take its share."""
    results: list[dict[str, Any]] = []
    ids = [
        cluster.operator.execute(graphs.sleep(PROBE_SECONDS, seed=cluster.next_number()), priority="high")
        for _ in range(PROBES)
    ]
    try:
        results = [cluster.operator.result(each, seconds=60) for each in ids]
    except AssertionError as exc:
        yield f"an execution at the very end did not run: {exc}"
    if failed := [each["error"] for each in results if each["status"] != "completed"]:
        yield f"executions at the very end failed: {failed}"
    used = {name for (name,) in cluster.sql("SELECT worker FROM workflows_execution WHERE id = ANY(%s)", ids)}
    if missing := set(GPUS) - used:
        yield f"these workers no longer claim work: {sorted(missing)}"
