"""Performance of the queue at depth: claims, positions and submissions with many waiting executions.

On a real PostgreSQL, with the functions that the worker and the API call (claims.take,
queue_positions.of, submission.submit). Claimers and submitters are processes, each with its connection.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of benchmarks/, where this file would hide Python's own `queue`

import json  # noqa: E402
import multiprocessing  # noqa: E402
import time  # noqa: E402
from multiprocessing.connection import Connection  # noqa: E402
from typing import Any  # noqa: E402

from benchmarks.services import Services, command_line, percentile, print_table, say  # noqa: E402
from script.harness import graphs  # noqa: E402

USERS = 100
PATIENCE = 60.0  # startup timeout of a claimer

EXECUTIONS = """
    INSERT INTO workflows_execution (id, user_id, status, priority, timeout_minutes, request_id, turn, start,
        finish, cost, worker, attempt, boot, faults, returns, excluded, current_step, total_steps, percentage, kind,
        models_used, metadata, webhook_url, warnings)
    SELECT gen_random_uuid(), users.id, 'pending', 'normal', 30, '', n * 7.5 + 2.5, n * 7.5, (n + 1) * 7.5,
        30, '', 0, '', 0, 0, '{}', 0, 0, 0, 'benchmark', '[]', '{}', '', '[]'
    FROM generate_series(0, %s - 1) AS n, accounts_user AS users
"""
GRAPHS = """
    INSERT INTO workflows_graph (execution_id, submitted, prompt)
    SELECT id, graph, graph FROM workflows_execution, (SELECT %s::jsonb AS graph) AS given
"""


def fill(*, waiting: int) -> None:
    """Insert waiting executions of USERS users, in the order of fair queueing."""
    from django.db import connection

    from accounts.models import User

    User.objects.bulk_create(
        User(username=f"user{number}", email=f"user{number}@example.com") for number in range(USERS)
    )
    with connection.cursor() as cursor:
        cursor.execute(EXECUTIONS, [waiting // USERS])
        # As autovacuum would; and without it each graph's foreign key is looked up row by row.
        cursor.execute("VACUUM ANALYZE workflows_execution")
        cursor.execute(GRAPHS, [json.dumps(graphs.colour(1))])


# -- claims ------------------------------------------------------------------------------------------
def claims_a_second(*, claimers: int, seconds: float) -> tuple[float, float]:
    """(claims a second of all together, milliseconds of one at p90)."""
    context = multiprocessing.get_context("spawn")
    pairs = [context.Pipe() for _ in range(claimers)]
    processes = [
        context.Process(target=_claim, args=(far, f"worker-{number}", seconds))
        for number, (_, far) in enumerate(pairs)
    ]
    for process in processes:
        process.start()
    ours = [near for near, _ in pairs]
    for near in ours:
        _answer_of(near)  # it is ready
    for near in ours:
        near.send("go")
    taken: list[float] = [each for near in ours for each in _answer_of(near)]
    for process in processes:
        process.join()
    return len(taken) / seconds, 1000 * percentile(taken, 0.9)


def _answer_of(near: Connection) -> Any:
    if not near.poll(PATIENCE):
        raise TimeoutError("a claimer does not respond")
    return near.recv()


def _claim(far: Connection, worker: str, seconds: float) -> None:
    """A claimer process: claims for `seconds`, and reports how long each claim took."""
    import django

    django.setup()
    from workflows.queue import claims

    claims.take(worker=worker)  # connects
    far.send("ready")
    far.recv()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        if claims.take(worker=worker) is None:
            raise RuntimeError("the queue is empty; increase --waiting")
        taken.append(time.perf_counter() - began)
    far.send(taken)


# -- at depth ------------------------------------------------------------------------------------------
def submitting(*, times: int) -> list[float]:
    """Milliseconds of each submission, as the view makes it but without HTTP."""
    from accounts.models import User
    from workflows.queue import submission

    user = User.objects.get(username="user0")
    taken = []
    for number in range(times + 5):
        began = time.perf_counter()
        submission.submit(
            user=user, workflow=graphs.colour(number), priority="normal", timeout_minutes=30, metadata={}
        )
        taken.append(1000 * (time.perf_counter() - began))
    return taken[5:]


def asking_position(*, times: int, last: bool) -> list[float]:
    """Milliseconds of each look-up of a place: of the first in the queue, or of the last."""
    from workflows.models import Execution
    from workflows.queue import queue_positions

    waiting = Execution.objects.filter(status="pending", claim_token=None, held=None)
    one = waiting.order_by(*(("-turn", "-created_at") if last else ("turn", "created_at"))).first()
    assert one is not None
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        queue_positions.of([one.id])
        taken.append(1000 * (time.perf_counter() - began))
    return taken


def beside(*, waiting: int, times: int) -> list[list[object]]:
    timed = {
        "submit": submitting(times=times),
        "position of the first": asking_position(times=times, last=False),
        "position of the last": asking_position(times=times, last=True),
    }
    return [
        [f"{what}, {waiting:,} waiting", *(percentile(values, share) for share in (0.5, 0.9))]
        for what, values in timed.items()
    ]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--waiting", type=int, default=100_000, help="executions in the queue (100,000)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of claiming, for each number of claimers")
    parser.add_argument("--times", type=int, default=100, help="submissions and look-ups that are timed")
    options = parser.parse_args()
    with Services() as services:
        services.set_up_django()
        beside_few, claims = [], []
        say("beside an empty queue")
        fill(waiting=USERS)
        beside_few = beside(waiting=USERS, times=options.times)
        say(f"filling in {options.waiting:,}")
        from accounts.models import User

        User.objects.all().delete()
        fill(waiting=options.waiting)
        rows = beside_few + beside(waiting=options.waiting, times=options.times)
        for claimers in (1, 10):
            say(f"claiming, {claimers} at once")
            claims.append([claimers, *claims_a_second(claimers=claimers, seconds=options.seconds)])
    print_table(["beside the queue, ms", "p50", "p90"], rows)
    print_table([f"claimers at {options.waiting:,}", "claims a second", "one at p90, ms"], claims)


if __name__ == "__main__":
    main()
