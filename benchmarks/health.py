"""Response times of `/metrics/` and `/health/detailed`: empty database, and a million executions.

    .venv/bin/python -m benchmarks.health [--executions 1000000] [--waiting 100000]

A real PostgreSQL, Valkey and web process in a temporary folder. Results are shared for a second, so each
request is sent after that second: the computation is measured, not the cache.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import psycopg
import requests

from benchmarks.services import Services, command_line
from script.harness import graphs
from script.harness.stack import Stack

ASKED = 10  # requests per path
PATHS = {
    "/metrics/ (JSON)": ("/metrics/", "application/json"),
    "/metrics/ (Prometheus)": ("/metrics/", "text/plain"),
    "/health/detailed": ("/health/detailed", "*/*"),
}

# Copies of one that was submitted, so that columns which come later need no care here. Ended ones are spread
# over a year, 20 kinds and 3 priorities, as the service would have left them.
COPY = """
    INSERT INTO workflows_execution
    SELECT copy.* FROM workflows_execution original, generate_series(1, %(number)s) i,
        LATERAL jsonb_populate_record(original, jsonb_build_object(
            'id', gen_random_uuid(), 'turn', i, 'start', i, 'finish', i + 30, 'kind', 'kind' || i %% 20,
            'priority', (ARRAY['low', 'normal', 'high'])[1 + i %% 3]
        ) || {columns}) copy
    WHERE original.id = %(original)s
"""
ENDED = COPY.format(
    columns="""jsonb_build_object(
        'status', (ARRAY['completed', 'completed', 'completed', 'failed'])[1 + i %% 4], 'gpu_seconds', 30,
        'created_at', now() - interval '1 year' + make_interval(secs => i * 31),
        'claimed_at', now() - interval '1 year' + make_interval(secs => i * 31 + 20),
        'started_at', now() - interval '1 year' + make_interval(secs => i * 31 + 20),
        'completed_at', now() - interval '1 year' + make_interval(secs => i * 31 + 50), 'worker', 'gpu-1'
    )"""
)
WAITING = COPY.format(columns="jsonb_build_object('created_at', now() - make_interval(secs => i))")
# The tallies that the deltas of these executions would have been folded into.
FIGURES = """
    INSERT INTO workflows_tally (metric, labels, bucket, count, sum)
    SELECT 'executions_submitted', ARRAY[priority], 0, count(*), count(*) FROM workflows_execution
    GROUP BY priority
    UNION ALL
    SELECT 'executions_ended', ARRAY[status, priority], 0, count(*), count(*) FROM workflows_execution
    WHERE status IN ('completed', 'failed') GROUP BY status, priority
    UNION ALL
    SELECT 'execution_run_seconds', ARRAY[kind], 7, count(*), 30 * count(*) FROM workflows_execution
    WHERE status = 'completed' GROUP BY kind
    UNION ALL
    SELECT 'execution_wait_seconds', ARRAY[kind, priority], 6, count(*), 20 * count(*)
    FROM workflows_execution WHERE status IN ('completed', 'failed') GROUP BY kind, priority
    ON CONFLICT (metric, labels, bucket) DO UPDATE SET count = excluded.count, sum = excluded.sum
"""


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--waiting", type=int, default=100_000)
    options = parser.parse_args()
    with Services(durable=False, env={"COMFYUI_URL": "http://127.0.0.1:1", "RATE_LIMITS": "off"}) as services:
        _compare(options, services.start_stack())


def _compare(options: argparse.Namespace, stack: Stack) -> None:
    print(f"{'median (worst), ms':24}" + "".join(f"{name:>26}" for name in PATHS))
    _row("empty", stack.url)
    original = stack.person("bench").execute(graphs.colour(1))
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        _fill(connection, ENDED, original, 60)
        _row("one of each kind", stack.url)
        _fill(connection, ENDED, original, options.executions)
        _row(f"{options.executions:,} ended", stack.url)
        _fill(connection, WAITING, original, options.waiting)
        _row(f"and {options.waiting:,} waiting", stack.url)
        began = time.perf_counter()
        connection.execute("SELECT status, count(*) FROM workflows_execution GROUP BY status").fetchall()
        took = (time.perf_counter() - began) * 1000
        print(f"\nFor comparison: counting the table by status once takes {took:.0f} ms")


def _fill(connection: psycopg.Connection, statement: str, original: str, number: int) -> None:
    began = time.perf_counter()
    connection.execute(statement, {"number": number, "original": original})
    connection.execute(FIGURES)
    connection.execute("VACUUM ANALYZE")
    print(f"  (made {number:,} rows in {time.perf_counter() - began:.0f} s)", file=sys.stderr, flush=True)


def _row(name: str, url: str) -> None:
    cells = [_times(url + path, accept) for path, accept in PATHS.values()]
    print(f"{name:24}" + "".join(f"{cell:>26}" for cell in cells), flush=True)


def _times(url: str, accept: str) -> str:
    """Median and worst response time, in milliseconds."""
    session = requests.Session()
    session.headers["Accept"] = accept

    def ask() -> float:
        began = time.perf_counter()
        answer = session.get(url, timeout=10)
        assert answer.status_code == 200, answer.text
        return (time.perf_counter() - began) * 1000

    return _summary(ask)


def _summary(ask: Callable[[], float]) -> str:
    ask()
    took = []
    for _ in range(ASKED):
        time.sleep(1.05)  # until the shared response has expired
        took.append(ask())
    return f"{statistics.median(took):.1f} ({max(took):.1f})"


if __name__ == "__main__":
    main()
