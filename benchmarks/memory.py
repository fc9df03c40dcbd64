"""Resident memory of each of our processes: idle, and while executions are processed.

ComfyUI is a scripted one, so that a thousand executions take a minute or two. A process grows at first,
until its caches and pools are full; what matters is that it is no larger after the second half than after
the first.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of benchmarks/, whose queue.py would hide Python's own

from concurrent.futures import ThreadPoolExecutor  # noqa: E402

import psutil  # noqa: E402

from benchmarks.services import Services, command_line, print_table, say  # noqa: E402
from script.harness import graphs  # noqa: E402
from script.harness.stack import Person, Stack  # noqa: E402
from script.harness.waiting import wait_for  # noqa: E402
from tests.scripted_comfyui import ScriptedComfyUI  # noqa: E402

AT_ONCE = 4  # concurrent requests
PATIENCE = 600.0  # seconds until all have ended
MEGABYTE = 1024 * 1024


def resident(stack: Stack) -> dict[str, float]:
    """Megabytes of each process with its children."""
    processes = {"web": stack.web, **stack.workers}
    return {name: _resident(process.pid) / MEGABYTE for name, process in processes.items() if process}


def _resident(pid: int) -> int:
    process = psutil.Process(pid)
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))


def run(stack: Stack, person: Person, *, first: int, count: int) -> None:
    """Run executions from submission to result, reading them in the ways that clients do."""

    def one(number: int) -> str:
        execution_id = person.execute(graphs.colour(number))
        person.get(f"/workflows/{execution_id}/status").raise_for_status()
        return execution_id

    with ThreadPoolExecutor(AT_ONCE) as threads:
        ids = list(threads.map(one, range(first, first + count)))
    wait_for(lambda: _ended(stack) >= first + count, seconds=PATIENCE, what="the end of all")
    for path in (f"/workflows/{ids[-1]}", f"/workflows/{ids[-1]}/logs", "/workflows/?limit=100"):
        person.get(path).raise_for_status()


def _ended(stack: Stack) -> int:
    rows = stack.sql("SELECT count(*) FILTER (WHERE status = 'completed'), count(*) FILTER"
                     " (WHERE status IN ('failed', 'cancelled')) FROM workflows_execution")  # fmt: skip
    completed, others = rows[0]
    if others:
        raise RuntimeError(f"{others} did not complete")
    return int(completed)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--executions", type=int, default=1000, help="in all (default 1,000)")
    options = parser.parse_args()
    half = options.executions // 2
    with Services() as services, ScriptedComfyUI() as comfyui:
        stack = services.start_stack()
        stack.start_worker("gpu", comfyui_url=comfyui.url)
        stack.start_worker("others", queues="default,models,webhooks")
        measured = [resident(stack)]
        person = stack.person()
        for first in (0, half):
            say(f"executions {first + 1} to {first + half}")
            run(stack, person, first=first, count=half)
            comfyui.requests.clear()
            measured.append(resident(stack))
    rows = [
        [name, *(each[name] for each in measured), measured[2][name] - measured[1][name]]
        for name in measured[0]
    ]
    head = ["resident, MB", "idle", f"after {half}", f"after {2 * half}", "growth of the second half"]
    print_table(head, rows)


if __name__ == "__main__":
    main()
