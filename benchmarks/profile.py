"""Latency breakdown of an execution, from timestamps recorded in each process.

Tiny workflows are run one after the other with `Prefer: wait`; for each step of `benchmarks.tracing` a row says
when it begins after the POST was sent, and how long it takes (medians; steps within steps are counted in both).
With --sql each SQL statement has a row as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of benchmarks/, whose queue.py would hide Python's own

import json  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections import defaultdict  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from typing import Any  # noqa: E402

from benchmarks.services import Services, command_line, print_table, say  # noqa: E402
from script.harness import graphs  # noqa: E402

WARM_UP = 10  # warm-up executions
AFTERWARDS = 0.15  # seconds after the response that are still recorded

Row = list[object]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="executions that are counted (default 60)")
    parser.add_argument("--sql", action="store_true", help="a row for each SQL statement too")
    options = parser.parse_args()
    with Services() as services:
        folder = services.folder / "trace"
        folder.mkdir()
        say("starting the services")
        comfyui = services.start_comfyui()
        stack = services.start_stack()
        stack.env.update(TRACE_DIR=str(folder), DJANGO_SETTINGS_MODULE="benchmarks.traced_settings")
        stack.start_web(env={})
        stack.start_worker(comfyui_url=comfyui.url)
        person = stack.person()
        rounds = []
        for number in range(WARM_UP + options.rounds):
            began = time.monotonic()
            answer = person.post(
                "/workflows/execute", {"workflow": graphs.colour(number)}, headers={"Prefer": "wait=30"}
            )
            ended = time.monotonic()
            if answer.json().get("status") != "completed":
                raise RuntimeError(answer.text)
            rounds.append((began, ended))
            time.sleep(AFTERWARDS)
        report(rounds[WARM_UP:], list(entries(folder)), sql=options.sql)


def entries(folder: Path) -> Iterator[dict[str, Any]]:
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            yield json.loads(line)


def report(rounds: list[tuple[float, float]], traced: list[dict[str, Any]], *, sql: bool) -> None:
    """One row for each step, in the order in which they begin."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for began, ended in rounds:
        seen: dict[str, int] = defaultdict(int)
        for entry in sorted(traced, key=lambda each: each["began"]):
            if not began <= entry["began"] < ended + AFTERWARDS:
                continue
            if entry["label"].startswith("SQL ") and not sql:
                continue
            label = f"{entry['thread'].rstrip('0123456789_-')}: {entry['label']}"
            seen[label] += 1
            key = label if seen[label] == 1 else f"{label} ({seen[label]})"
            found[key].append((entry["began"] - began, entry["ended"] - entry["began"]))
    rows: list[Row] = []
    for key, times in found.items():
        if len(times) * 2 > len(rounds):
            starts, durations = zip(*times, strict=True)
            begins, takes = 1000 * statistics.median(starts), 1000 * statistics.median(durations)
            rows.append([key, begins, takes, begins + takes])
    rows.sort(key=lambda row: float(str(row[1])))
    whole = 1000 * statistics.median(ended - began for began, ended in rounds)
    print_table(["step, ms", "begins", "takes", "ends"], [*rows, ["answer at the client", 0.0, whole, whole]])


if __name__ == "__main__":
    main()
