"""How long `script/serve` takes until it is ready, and the memory of each process at rest.

    .venv/bin/python -m benchmarks.start [--rounds 5] [--before DIRECTORY]

Without ComfyUI: COMFYUI_URL names an address where nothing listens. The first start creates the database; the
others find it. Ready: the API responds, and Flower, which is the last to import everything. `--before` names
another checkout, which takes turns with this one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import requests

from benchmarks.services import command_line, percentile, print_table, say
from script.harness.waiting import wait_for
from script.local import ports
from script.local.paths import ROOT

PATIENCE = 180.0  # seconds until it is ready, and until it has stopped
REST_SECONDS = 10.0  # after the start, until memory is read
MEGABYTE = 1024 * 1024


@contextlib.contextmanager
def served(checkout: Path, data: Path) -> Iterator[tuple[float, float, int]]:
    """Seconds until the API and until Flower respond, and the pid, while it runs."""
    port, flower = ports.free_port(), ports.free_port()
    env = os.environ | {
        "PORT": str(port),
        "FLOWER_PORT": str(flower),
        "DATA_DIR": str(data),
        "COMFYUI_URL": f"http://127.0.0.1:{ports.free_port()}",
    }
    log = (data.parent / f"{data.name}.log").open("ab")
    began = time.monotonic()
    process = subprocess.Popen(["script/serve"], cwd=checkout, env=env, stdout=log, stderr=log)
    try:
        wait_for(lambda: responds(f"http://127.0.0.1:{port}/health/"), seconds=PATIENCE, what="the API")
        api = time.monotonic() - began
        wait_for(lambda: responds(f"http://127.0.0.1:{flower}/flower/"), seconds=PATIENCE, what="Flower")
        yield api, time.monotonic() - began, process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
        log.close()


def responds(url: str) -> bool:
    """With any status: Flower asks for its password, and health is 503 without ComfyUI."""
    try:
        requests.get(url, timeout=5)
    except requests.RequestException:
        return False
    return True


def at_rest(pid: int) -> dict[str, list[float]]:
    """Megabytes by process: resident, and with shared pages divided among those that share them."""
    time.sleep(REST_SECONDS)
    found: dict[str, list[float]] = {}
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            memory = process.memory_full_info()
            name = _name(process.cmdline())
            before = found.get(name, [0.0, 0.0])
            found[name] = [before[0] + memory.rss / MEGABYTE, before[1] + memory.pss / MEGABYTE]
    return found


def _name(command: list[str]) -> str:
    line = " ".join(command)
    for part in ("postgres", "valkey", "supervisor", "flower", "beat", "uvicorn", "webhook", "gpu"):
        if part in line:
            return part
    return line[-60:]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="starts of each (default 5)")
    parser.add_argument("--before", type=Path, help="another checkout, with its .venv")
    options = parser.parse_args()
    checkouts = {"now": ROOT} | ({"before": options.before.resolve()} if options.before else {})
    with tempfile.TemporaryDirectory() as folder:
        starts: dict[str, list[tuple[float, float]]] = {name: [] for name in checkouts}
        memory: dict[str, dict[str, list[float]]] = {}
        for number in range(options.rounds + 1):
            for name, checkout in checkouts.items():
                say(f"start {number} of {name}")
                with served(checkout, Path(folder) / name) as (api, flower, pid):
                    starts[name].append((api, flower))
                    if number == options.rounds:
                        memory[name] = at_rest(pid)
    print_table(
        ["seconds until", "first start", "later (p50)", "Flower too (p50)"],
        [
            [name, taken[0][0], *(percentile([each[which] for each in taken[1:]], 0.5) for which in (0, 1))]
            for name, taken in starts.items()
        ],
    )
    for name, processes in memory.items():
        rows = [[process, *sizes] for process, sizes in sorted(processes.items())]
        rows.append(["all", *(sum(sizes[which] for sizes in processes.values()) for which in (0, 1))])
        print_table([f"{name}: MB at rest", "resident", "proportional"], rows)


if __name__ == "__main__":
    main()
