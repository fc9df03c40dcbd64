"""Processor time of one tiny execution, by process, and how long the client waits for it.

Executions run one after the other with `Prefer: wait`. Processor time depends little on what else the machine
does, unlike the time on the clock. PostgreSQL's includes its background processes.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of benchmarks/, whose queue.py would hide Python's own

import time  # noqa: E402

import psutil  # noqa: E402

from benchmarks.services import DATABASE, Services, command_line, percentile, print_table, say  # noqa: E402
from script.harness import graphs  # noqa: E402
from script.harness.stack import Stack  # noqa: E402

WARM_UP = 20  # warm-up executions


def groups(stack: Stack) -> dict[str, list[psutil.Process]]:
    """Our processes with their children, PostgreSQL's and Valkey's, by name."""
    found: dict[str, list[psutil.Process]] = {}
    own = {"web": stack.web, **{f"{name} worker": each for name, each in stack.workers.items()}}
    for name, process in own.items():
        if process is not None:
            parent = psutil.Process(process.pid)
            found[name] = [parent, *parent.children(recursive=True)]
    for child in psutil.Process().children(recursive=True):
        for name in ("postgres", "valkey"):
            if name in child.name():
                found.setdefault(name, []).append(child)
    return found


def used(processes: list[psutil.Process]) -> float:
    """Processor time so far in seconds, of the processes that are alive."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="executions that are counted (default 200)")
    options = parser.parse_args()
    with Services() as services:
        say(f"starting the services with the database {DATABASE}")
        comfyui = services.start_comfyui()
        stack = services.start_stack()
        stack.start_worker(comfyui_url=comfyui.url)
        person = stack.person()

        def run(number: int) -> float:
            began = time.perf_counter()
            answer = person.post(
                "/workflows/execute", {"workflow": graphs.colour(number)}, headers={"Prefer": "wait=30"}
            )
            if answer.json().get("status") != "completed":
                raise RuntimeError(answer.text)
            return time.perf_counter() - began

        for number in range(WARM_UP):
            run(number)
        watched = groups(stack)
        before = {name: used(processes) for name, processes in watched.items()}
        taken = [run(number) for number in range(WARM_UP, WARM_UP + options.rounds)]
        rows: list[list[object]] = [
            [name, 1000 * (used(processes) - before[name]) / options.rounds]
            for name, processes in watched.items()
        ]
        rows.append(["all", sum(float(str(row[1])) for row in rows)])
        print_table(["processor, ms an execution", ""], rows)
        waited = [1000 * percentile(taken, share) for share in (0.5, 0.99)]
        print_table(["the client waits, ms", "p50", "p99"], [["", *waited]])


if __name__ == "__main__":
    main()
