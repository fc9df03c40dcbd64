"""Throughput of one web process: submissions, and reads of a status and of a result.

Eight clients at once, each as fast as it is answered. No worker takes what is submitted, so that only the web
process, PostgreSQL and Valkey are at work, beside the clients, which are processes of their own.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of benchmarks/, whose queue.py would hide Python's own

import multiprocessing  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

import requests  # noqa: E402

from benchmarks.services import Services, command_line, percentile, print_table, say  # noqa: E402
from script.harness import graphs  # noqa: E402
from script.harness.stack import Person  # noqa: E402

CLIENTS = 8


def client(url: str, token: str, path: str, number: int, seconds: float) -> list[float]:
    """Duration of each request in seconds. Submits if `path` is empty, else reads it."""
    session = requests.Session()
    session.headers["Authorization"] = token
    taken: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        if path:
            answer = session.get(url + path)
        else:
            body: dict[str, Any] = {"workflow": graphs.colour(number * 100_000 + len(taken))}
            answer = session.post(f"{url}/workflows/execute", json=body)
        answer.raise_for_status()
        taken.append(time.perf_counter() - began)
    return taken


def measure(person: Person, path: str, *, seconds: float) -> list[object]:
    """[requests a second, p50 ms, p99 ms]."""
    token = str(person.session.headers["Authorization"])
    with multiprocessing.get_context("fork").Pool(CLIENTS) as pool:
        calls = [(person.url, token, path, number, seconds) for number in range(CLIENTS)]
        taken = [each for found in pool.starmap(client, calls, chunksize=1) for each in found]
    return [len(taken) / seconds, *(1000 * percentile(taken, share) for share in (0.5, 0.99))]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each kind (default 10)")
    options = parser.parse_args()
    with Services() as services:
        say("starting the services")
        comfyui = services.start_comfyui()
        stack = services.start_stack()
        person = stack.person()
        stack.start_worker(comfyui_url=comfyui.url, keep=True)
        done = person.execute(graphs.colour(1))
        person.result(done)
        stack.end_worker("gpu")
        rows: list[list[object]] = []
        for what, path in (
            ("POST /workflows/execute", ""),
            ("GET /workflows/{id}/status", f"/workflows/{done}/status"),
            ("GET /workflows/{id}", f"/workflows/{done}"),
        ):
            say(what)
            measure(person, path, seconds=2.0)  # warms up
            rows.append([what, *measure(person, path, seconds=options.seconds)])
        print_table([f"{CLIENTS} clients", "a second", "p50 ms", "p99 ms"], rows)


if __name__ == "__main__":
    main()
