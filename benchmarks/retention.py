"""Impact of retention on a running system: submissions and claims during a mass deletion.

    .venv/bin/python -m benchmarks.retention [--executions 1000000] [--seconds 30] [--rounds 3]

A real PostgreSQL with so many ended executions, each with its graph, log lines and file, a year old. One process
submits, one claims and ends, as the API and a worker do it but without HTTP and ComfyUI; in every second
round `manage.py clean` runs beside them.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.ended_executions import USERS, fill
from benchmarks.services import Services, command_line, percentile, print_table, say
from script.harness import graphs
from script.local.paths import ROOT

SIZES = """
    SELECT relname, n_live_tup, n_dead_tup, pg_total_relation_size(relid) / 1048576, autovacuum_count
    FROM pg_stat_user_tables WHERE relname IN ('workflows_execution', 'workflows_graph', 'workflows_logline')
    ORDER BY relname
"""


# -- concurrent work -----------------------------------------------------------------------------------
def _submit(far: Connection) -> None:
    from accounts.models import User
    from workflows.queue import submission

    user = User.objects.get(username="asker")
    _repeat(
        far,
        lambda number: submission.submit(
            user=user, workflow=graphs.colour(number), priority="normal", timeout_minutes=30, metadata={}
        ),
        pause=0.02,
    )


def _work(far: Connection) -> None:
    """Claim, start and end; only the claim is timed."""
    from workflows.models import Status
    from workflows.queue import claims, state_machine

    claimed: list[claims.Claim] = []

    def claim(_: int) -> None:
        if (found := claims.take(worker="gpu")) is not None:
            claimed.append(found)

    def end() -> None:
        for found in claimed:
            state_machine.begin(found, total_steps=1)
            state_machine.finish(found, state_machine.Outcome(Status.COMPLETED, gpu_seconds=1.0))
        claimed.clear()

    _repeat(far, claim, pause=0.015, between=end)


def _repeat(far: Connection, do: Any, *, pause: float, between: Any = lambda: None) -> None:
    """Repeat it; on request, report the milliseconds of each since the last report."""
    taken: list[float] = []
    number = 0
    while True:
        began = time.perf_counter()
        do(number)
        taken.append(1000 * (time.perf_counter() - began))
        between()
        number += 1
        if far.poll(pause):
            if far.recv() == "end":
                return
            far.send(taken)
            taken = []


def _process(far: Connection, what: str) -> None:
    import django

    django.setup()
    {"submit": _submit, "claim": _work}[what](far)


def measure(*, seconds: float, rounds: int) -> None:
    context = multiprocessing.get_context("spawn")
    near: dict[str, Connection] = {}
    processes = []
    for what in ("submit", "claim"):
        near[what], far = context.Pipe()
        processes.append(context.Process(target=_process, args=(far, what), daemon=True))
        processes[-1].start()
    time.sleep(5)
    taken: dict[tuple[str, bool], list[float]] = {(w, c): [] for w in near for c in (False, True)}
    removed: list[float] = []
    for number in range(rounds * 2):
        cleaning = bool(number % 2)
        say("cleaning" if cleaning else "not cleaning")
        _taken_since(near)
        before = _ended()
        cleaner = (
            subprocess.Popen([sys.executable, ROOT / "manage.py", "clean", "--only=workflows"])
            if cleaning
            else None
        )
        time.sleep(seconds)
        if cleaner is not None:
            cleaner.kill()
            cleaner.wait()
            removed.append((before - _ended()) / seconds)
        for what, values in _taken_since(near).items():
            taken[what, cleaning] += values
    for end in near.values():
        end.send("end")
    for process in processes:
        process.join(10)
    rows = [
        [f"{what}, {'cleaning' if cleaning else 'not'}", len(values)]
        + [percentile(values, share) for share in (0.5, 0.9, 0.99)]
        for (what, cleaning), values in taken.items()
    ]
    print_table(["ms", "number", "p50", "p90", "p99"], rows)
    print("old executions removed a second: " + ", ".join(f"{each:.0f}" for each in removed))


def _taken_since(near: dict[str, Connection]) -> dict[str, list[float]]:
    for end in near.values():
        end.send("tell")
    return {what: end.recv() for what, end in near.items()}


def _ended() -> int:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM workflows_execution WHERE completed_at < now() - interval '90 days'"
        )
        return int(cursor.fetchone()[0])


def show_sizes(when: str) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(SIZES)
        rows = cursor.fetchall()
    print_table([when, "rows", "dead", "MiB with indexes", "autovacuums"], rows)


def explain() -> None:
    """Print the query plan of a batch."""
    from comfyserve.cleaning import ago
    from workflows.cleaning import BATCH
    from workflows.queue import deletion

    rows = deletion.removable().filter(completed_at__lt=ago(90)).order_by("completed_at")
    print(rows.values_list("id", "completed_at")[:BATCH].explain(analyze=True), "\n")


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3, help="with cleaning, and as many without")
    options = parser.parse_args()
    with Services(env={"LOG_LEVEL": "WARNING"}) as services:
        services.set_up_django()
        say(f"making {options.executions:,} executions")
        each = options.executions // USERS
        fill(own=each, others=each)
        show_sizes("before")
        explain()
        measure(seconds=options.seconds, rounds=options.rounds)
        show_sizes("after")
        explain()


if __name__ == "__main__":
    main()
