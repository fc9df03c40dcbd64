"""How long an execution waits after SIGKILL of its GPU worker, with default settings.

Two cases: the same worker is restarted immediately and rejoins the run; and the worker does not return, so that
another GPU runs it again. Runs are in a scripted ComfyUI, which costs no CPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import argparse  # noqa: E402
import random  # noqa: E402
import time  # noqa: E402
from contextlib import ExitStack  # noqa: E402

from benchmarks.services import Services, percentile, print_table, say  # noqa: E402
from script.harness import graphs  # noqa: E402
from script.harness.stack import Person, Stack  # noqa: E402
from script.harness.waiting import wait_for  # noqa: E402
from tests.scripted_comfyui import ScriptedComfyUI  # noqa: E402

LONG = 3600.0  # duration of a run in seconds: it never ends by itself here
PATIENCE = 180.0

# Seconds from a moment until a line of the log that begins so, of one execution.
LINE = """
    SELECT extract(epoch FROM timestamp)::float - %s FROM workflows_logline
    WHERE execution_id = %s AND message LIKE %s AND timestamp > to_timestamp(%s) ORDER BY id LIMIT 1
"""
RUNNING = "SELECT worker FROM workflows_execution WHERE id = %s AND status = 'running'"
IDLE = "SELECT count(*) FROM workflows_worker WHERE idle AND heartbeat_at > now() - interval '12 s'"


class Fleet:
    """Workers by name, each with a scripted ComfyUI of its own."""

    def __init__(self, stack: Stack, comfyuis: dict[str, ScriptedComfyUI]) -> None:
        self._stack = stack
        self._comfyuis = comfyuis
        self._starts = 0
        self._names: dict[str, str] = {}  # worker -> the stack's name of its current process

    def start(self, name: str) -> None:
        self._starts += 1
        self._names[name] = f"{name}.{self._starts}"
        url, env = self._comfyuis[name].url, {"COMFYUI_NAME": name}
        self._stack.start_worker(self._names[name], comfyui_url=url, env=env, wait=False)

    def start_idle(self, names: list[str]) -> None:
        for name in names:
            self.start(name)
        wait_for(
            lambda: self._stack.sql(IDLE)[0][0] >= len(names), seconds=PATIENCE, what="the workers to be idle"
        )

    def kill(self, name: str) -> float:
        """Kill it; the time, in seconds since the epoch."""
        at = time.time()
        self._stack.workers[self._names[name]].kill()
        return at

    def since(self, at: float, execution_id: str, line: str) -> float:
        found = wait_for(
            lambda: self._stack.sql(LINE, at, execution_id, f"{line}%", at), seconds=PATIENCE, what=line
        )
        return float(found[0][0])

    def runs_on(self, execution_id: str) -> str:
        row = wait_for(lambda: self._stack.sql(RUNNING, execution_id), seconds=PATIENCE, what="it to run")
        return str(row[0][0])


def started_again(fleet: Fleet, person: Person, *, kills: int) -> list[float]:
    """Seconds from each SIGKILL until a new process of the same worker has the run in its hands."""
    fleet.start_idle(["a0"])
    execution_id = person.execute(graphs.sleep(LONG))
    fleet.runs_on(execution_id)
    taken = []
    for _ in range(kills):
        at = fleet.kill("a0")
        fleet.start("a0")
        taken.append(fleet.since(at, execution_id, "Found in ComfyUI and joined"))
    person.post(f"/workflows/{execution_id}/cancel")
    fleet.kill("a0")
    return taken


def taken_over(fleet: Fleet, person: Person, *, pairs: int, rounds: int, seed: int) -> list[float]:
    """Seconds from each SIGKILL until another GPU runs it. In each round all that run are killed."""
    chance = random.Random(seed)
    sides = [[f"{side}{number}" for number in range(pairs)] for side in "ab"]
    fleet.start_idle(sides[0])
    ids = [person.execute(graphs.sleep(LONG, seed=number)) for number in range(pairs)]
    for id_ in ids:
        fleet.runs_on(id_)
    taken: list[float] = []
    for number in range(rounds):
        running, spare = sides[number % 2], sides[1 - number % 2]
        fleet.start_idle(spare)
        where = {fleet.runs_on(id_): id_ for id_ in ids}
        killed = {}
        for name in running:
            time.sleep(chance.uniform(0, 0.4))  # at any moment between two renewals
            killed[where[name]] = fleet.kill(name)
        taken += [fleet.since(at, id_, "Starting workflow execution") for id_, at in killed.items()]
        say(f"round {number + 1}: worst {max(taken):.1f} s")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of a worker that is restarted")
    parser.add_argument("--pairs", type=int, default=10, help="workers, and as many to take over")
    parser.add_argument("--rounds", type=int, default=2, help="in which all running workers are killed")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    names = [f"{side}{number}" for side in "ab" for number in range(options.pairs)]
    with Services() as services, ExitStack() as stack:
        comfyuis = {name: stack.enter_context(ScriptedComfyUI()) for name in names}
        served = services.start_stack()
        # TestSleep is the real ComfyUI's; the scripted one has its own.
        for comfyui in comfyuis.values():
            comfyui.classes["TestSleep"] = comfyui.classes["Sleep"]
        fleet, person = Fleet(served, comfyuis), served.person("patient")
        say(f"{options.kills} kills of a worker that is started again at once")
        rows = [("started again at once", started_again(fleet, person, kills=options.kills))]
        say(f"{options.rounds} times {options.pairs} kills of workers that do not come back")
        rows.append(
            ("taken over by another", taken_over(
                fleet, person, pairs=options.pairs, rounds=options.rounds, seed=options.seed
            ))
        )  # fmt: skip
    print_table(
        ["the worker is", "kills", "p50 s", "worst s"],
        [(name, len(found), percentile(found, 0.5), max(found)) for name, found in rows],
    )


if __name__ == "__main__":
    main()
