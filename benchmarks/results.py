"""Runs the performance benchmarks, and writes RESULTS.md and the chart of docs/performance.md.

    .venv/bin/python -m benchmarks.results [--salad URL] [--proxy URL]

On a machine that does nothing else: it takes about 15 minutes. The options are those of `benchmarks.peers`. The
picture needs matplotlib; without it, it is left as it is.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.services import command_line

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "milliseconds.png"
THROUGHPUT = ["benchmarks.overhead", "--rounds", "0", "--cancelled", "0"]
BENCHMARKS = {
    "Latency": ["benchmarks.peers"],
    "Where the milliseconds go": ["benchmarks.profile"],
    "Processor time": ["benchmarks.processor"],
    "Requests": ["benchmarks.submissions"],
    "Throughput": [*THROUGHPUT, "--queued", "50", "--sleeps", "1"],
    "Throughput of short workflows": [
        *THROUGHPUT,
        "--queued",
        "200",
        "--kinds",
        "sleep",
        "--sleeps",
        "0.1,0.01",
    ],
    "Large tables": ["benchmarks.size"],
}
PEERS = ("salad", "proxy")
IN_THE_PICTURE = {  # step of `benchmarks.profile` -> what it is called there
    "stream-request: submit": "submit",
    "wake: claim": "claim",
    "wake: POST /prompt": "POST /prompt",
    "wake: follow": "ComfyUI runs",
    "collect: collect outputs": "collect outputs",
    "collect: finish": "finish",
    "MainThread: render the result": "render the result",
}


def main() -> None:
    parser = command_line(__doc__)
    for name in PEERS:
        parser.add_argument(f"--{name}")
    given = vars(parser.parse_args())
    peers = [part for name in PEERS if given[name] for part in (f"--{name}", given[name])]
    tables: dict[str, list[dict[str, Any]]] = {}
    for title, command in BENCHMARKS.items():
        print(f"== {title}", flush=True)
        tables[title] = run([*command, *peers] if title == "Latency" else command)
    (ROOT / "benchmarks" / "RESULTS.md").write_text(document(tables))
    [steps, *_] = tables["Where the milliseconds go"]
    draw(steps["rows"])


def run(command: list[str]) -> list[dict[str, Any]]:
    """The tables that a benchmark prints."""
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        env = os.environ | {"RESULTS_FILE": file.name}
        subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=env, check=True)
        return [json.loads(line) for line in Path(file.name).read_text().splitlines()]


def document(tables: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        "# Results",
        "",
        "Written by `benchmarks/results.py`; what each figure means is in the benchmark of its name.",
        "",
        *(f"- {name}: {value}" for name, value in machine().items()),
    ]
    for title, found in tables.items():
        lines += ["", f"## {title}"]
        for table in found:
            head, rows = table["head"], table["rows"]
            lines += ["", _row(head), _row(["---", *["---:"] * (len(head) - 1)])]
            lines += [_row([_shown(value) for value in row]) for row in rows]
    return "\n".join(lines) + "\n"


def machine() -> dict[str, str]:
    memory = psutil.virtual_memory().total / 2**30
    return {
        "Date": time.strftime("%Y-%m-%d"),
        "Machine": f"{psutil.cpu_count()} cores, {memory:.0f} GiB memory, {platform.system()} "
        f"{platform.machine()}; load {os.getloadavg()[0]:.1f} at the end",
        "Versions": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("django", "celery", "psycopg", "uvicorn")),
        "Commit": _output(["git", "rev-parse", "--short", "HEAD"]),
    }


def _output(command: list[str]) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _shown(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def draw(steps: list[list[Any]]) -> None:
    """One bar for each step, from when it begins to when it ends."""
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        print("matplotlib is not installed: the picture stays as it is")
        return
    shown = [(IN_THE_PICTURE[step[0]], step[1], step[2]) for step in steps if step[0] in IN_THE_PICTURE]
    whole = steps[-1][2]
    figure, axes = pyplot.subplots(figsize=(8, 0.4 * len(shown) + 1.2))
    for place, (name, begins, takes) in enumerate(shown):
        colour = "#9aa5b1" if name in ("POST /prompt", "ComfyUI runs") else "#3b6fd4"
        axes.barh(place, takes, left=begins, color=colour)
        axes.text(begins + takes + whole / 100, place, f"{takes:.1f}", va="center", fontsize=8)
    axes.axvline(whole, color="#333333", linewidth=1, linestyle=":")
    axes.set_yticks(range(len(shown)), [name for name, _, _ in shown])
    axes.set_xlim(0, whole * 1.05)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds after the POST was sent; dotted: the answer is there")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=110)
    print(f"wrote {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
