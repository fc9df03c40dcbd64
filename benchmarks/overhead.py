"""How much ComfyServe adds to ComfyUI: the same workflows directly and through us, on one ComfyUI.

The direct client is as plain as can be: POST /prompt, and the websocket until ComfyUI says that it ended.
Ours is done when the API says `completed`, with all outputs stored: one is asked for with `Prefer: wait`, many
are followed on the live stream of everything that a user has.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of benchmarks/, whose queue.py would hide Python's own

import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from functools import partial  # noqa: E402
from itertools import count  # noqa: E402
from typing import Any  # noqa: E402

from benchmarks.direct import PATIENCE, Direct  # noqa: E402
from benchmarks.services import Services, command_line, percentile, print_table, say  # noqa: E402
from script.harness import graphs  # noqa: E402
from script.harness.sse import follow  # noqa: E402
from script.harness.stack import Person  # noqa: E402

POLL_SECONDS = 0.004  # poll interval of ComfyUI's queue

Graph = graphs.Graph


class Through:
    """A client of ComfyServe's API."""

    def __init__(self, person: Person) -> None:
        self._person = person
        self.submitting: list[float] = []  # duration of each POST in seconds

    def submit(self, graph: Graph) -> str:
        began = time.perf_counter()
        execution_id = self._person.execute(graph)
        self.submitting.append(time.perf_counter() - began)
        return execution_id

    def cancel(self, execution_id: str) -> None:
        self._person.post(f"/workflows/{execution_id}/cancel").raise_for_status()

    def run(self, graph: Graph) -> float:
        began = time.perf_counter()
        answer = self._person.post("/workflows/execute", {"workflow": graph}, headers={"Prefer": "wait=30"})
        answer.raise_for_status()
        if answer.json()["status"] != "completed":
            raise RuntimeError(answer.text)
        return time.perf_counter() - began

    def run_all(self, graphs_: list[Graph]) -> None:
        """Submit them at once, and wait for all ends."""
        with follow(self._person) as events:
            waiting = {self.submit(graph) for graph in graphs_}
            while waiting:
                event = events.until("status", seconds=PATIENCE)
                if event.data["status"] in ("failed", "cancelled"):
                    raise RuntimeError(event.data)
                if event.data["status"] == "completed":
                    waiting.discard(event.data["execution_id"])


def latency(direct: Direct, through: Through, *, rounds: int) -> list[list[object]]:
    """Rows of (what, p50, p90) in milliseconds. Direct and through us take turns."""
    say(f"{rounds} tiny workflows each way, one after the other")
    plain, ours = [], []
    for number in range(rounds + 5):
        colours = (2 * number + 10, 2 * number + 11)
        plain.append(direct.run(graphs.colour(colours[0])))
        ours.append(through.run(graphs.colour(colours[1])))
    plain, ours = plain[5:], ours[5:]  # the first are warming up
    rows: list[list[object]] = []
    for name, values in (("directly", plain), ("through us", ours)):
        rows.append([name, *(1000 * percentile(values, share) for share in (0.5, 0.9))])
    added = [1000 * (percentile(ours, share) - percentile(plain, share)) for share in (0.5, 0.9)]
    return [*rows, ["added", *added]]


def queue_directly(direct: Direct, graphs_: list[Graph]) -> float:
    """Seconds from the first submission until all have ended, ComfyUI's own queue fed at once."""
    began = time.perf_counter()
    for prompt_id in [direct.submit(graph) for graph in graphs_]:
        direct.wait(prompt_id)
    return time.perf_counter() - began


def queue_through(through: Through, graphs_: list[Graph]) -> float:
    began = time.perf_counter()
    through.run_all(graphs_)
    return time.perf_counter() - began


def interruption(direct: Direct, through: Through, *, rounds: int) -> list[list[object]]:
    """Rows of (what, p50, worst) in milliseconds: a running workflow is cancelled, and the GPU is free."""
    say(f"{rounds} running workflows are cancelled")
    answered, free = [], []
    for number in range(rounds):
        execution_id = through.submit(graphs.sleep(60.0, steps=6000, seed=90_000 + number))
        while execution_id not in direct.running():
            time.sleep(POLL_SECONDS)
        began = time.perf_counter()
        through.cancel(execution_id)
        answered.append(time.perf_counter() - began)
        began = time.perf_counter()
        while direct.running():
            time.sleep(POLL_SECONDS)
        free.append(time.perf_counter() - began)
    rows: list[list[object]] = []
    for name, values in (("POST …/cancel", answered), ("from its answer until ComfyUI is free", free)):
        rows.append([name, *(1000 * percentile(values, share) for share in (0.5, 1.0))])
    return rows


def steps_of_a_second(direct: Direct) -> int:
    """The number of sampling steps that take about a second on this machine."""
    few, many = 4, 24
    direct.run(graphs.txt2img(steps=few, seed=1))  # loads the model
    short = min(direct.run(graphs.txt2img(steps=few, seed=seed)) for seed in (2, 3))
    long = min(direct.run(graphs.txt2img(steps=many, seed=seed)) for seed in (4, 5))
    step = max((long - short) / (many - few), 0.0005)
    return max(few, round(few + (1.0 - short) / step))


def throughput(
    direct: Direct, through: Through, *, queued: int, kinds: list[str], sleeps: list[float]
) -> list[list[object]]:
    """Rows of (what, seconds directly, seconds through us, ratio). `sleeps`: seconds of the sleeping node."""
    made: dict[str, Callable[..., Graph]] = {}
    if "sleep" in kinds:
        made |= {f"{seconds:g} s, sleep": partial(graphs.sleep, seconds) for seconds in sleeps}
    if "sampler" in kinds:
        made["1 s, sampler"] = partial(graphs.txt2img, steps=steps_of_a_second(direct))
    rows: list[list[object]] = []
    seeds = count(1_000)
    for what, make in made.items():
        say(f"{queued} queued workflows of about {what}")
        plain = queue_directly(direct, [make(seed=next(seeds)) for _ in range(queued)])
        ours = queue_through(through, [make(seed=next(seeds)) for _ in range(queued)])
        rows.append([f"{queued} of {what}", plain, ours, plain / ours])
    return rows


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="tiny workflows each way (default 100)")
    parser.add_argument("--queued", type=int, default=50, help="workflows in the queue (default 50)")
    parser.add_argument("--cancelled", type=int, default=20, help="running ones to cancel (default 20)")
    parser.add_argument(
        "--kinds", default="sleep,sampler", help="of these: sleep, sampler (default both); or empty"
    )
    parser.add_argument(
        "--sleeps", default="1", help="seconds of the sleeping workflows, such as 1,0.1,0.01 (default 1)"
    )
    options = parser.parse_args()
    kinds: list[Any] = [kind for kind in options.kinds.split(",") if kind]
    with Services() as services:
        say("starting the services")
        comfyui = services.start_comfyui()
        stack = services.start_stack()
        stack.start_worker(comfyui_url=comfyui.url)
        direct, through = Direct(comfyui.url), Through(stack.person())
        if options.rounds:
            rows = latency(direct, through, rounds=options.rounds)
            print_table(["tiny workflow, ms", "p50", "p90"], rows)
        if options.cancelled:
            rows = interruption(direct, through, rounds=options.cancelled)
            print_table(["cancelled, ms", "p50", "worst"], rows)
        if kinds:
            rows = throughput(
                direct,
                through,
                queued=options.queued,
                kinds=kinds,
                sleeps=[float(each) for each in options.sleeps.split(",")],
            )
            print_table(["queued", "directly s", "through us s", "of its throughput"], rows)
        if through.submitting:
            taken = [1000 * percentile(through.submitting, share) for share in (0.5, 0.9)]
            print_table(["POST /workflows/execute, ms", "p50", "p90"], [["", *taken]])


if __name__ == "__main__":
    main()
