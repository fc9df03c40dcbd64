"""The attack from beginning to end: a world, clients at work in it, weather, and the reckoning."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.faults import promise
from tests.faults.clients import Client, Ledger
from tests.faults.weather import Weather
from tests.faults.world import World
from tests.workflows.receiver import Receiver, close, say

SETTLE_SECONDS = 240.0


@dataclass(frozen=True)
class Report:
    faults: Counter[str]
    ended: Counter[str]  # parts that ended by themselves, and were started again
    statuses: Counter[str]
    given_up: int
    answers: Counter[str]
    followed: int
    webhooks: int
    cost: promise.Cost
    settled_after: float  # seconds after the last fault
    broken: list[str] = field(default_factory=list)

    @property
    def executions(self) -> int:
        return sum(self.statuses.values())


def attack(
    world: World,
    *,
    seconds: float,
    seed: int,
    clients: int,
    pace: float,
    pause: float,
    longest: float = math.inf,
) -> Report:
    """Everything between the start of the world and its end. `pace`: seconds between faults, of which none
    lasts over `longest`; `pause`: the longest that a client rests between its batches."""
    ledger = Ledger()
    weather = Weather(world, seed=seed, pace=pace, longest=longest)
    with Receiver() as receiver, _moody(receiver, seed):
        people = [
            Client(world.stack, ledger, number=n, seed=seed, hook=receiver.url, pause=pause)
            for n in range(1, clients + 1)
        ]
        for person in people:
            person.start()
        weather.rage(seconds=seconds)
        over = time.monotonic()
        weather.tend()
        world.wait_ready()
        for person in people:
            person.stop.set()
        for person in people:
            person.join(60)
        promise.settle(world, ledger, seconds=SETTLE_SECONDS)
        settled = time.monotonic() - over
        broken = promise.broken(world, ledger, receiver)
        return _report(world, ledger, weather, receiver, settled=settled, broken=broken)


def _report(
    world: World, ledger: Ledger, weather: Weather, receiver: Receiver, *, settled: float, broken: list[str]
) -> Report:
    statuses: Counter[str] = Counter(each.result.get("status", "lost") for each in ledger.promises)
    errors = [each.result.get("error") or "" for each in ledger.promises]
    return Report(
        faults=weather.counts,
        ended=weather.ended,
        statuses=statuses,
        given_up=sum(bool(promise.HONEST.match(error)) for error in errors),
        answers=ledger.answers,
        followed=ledger.followed,
        webhooks=len(receiver.calls),
        cost=promise.cost_of(world),
        settled_after=settled,
        broken=broken,
    )


@contextmanager
def _moody(receiver: Receiver, seed: int) -> Iterator[None]:
    """Now and then the receiver of webhooks says no, or nothing."""
    chance, stop = random.Random(f"{seed}.receiver"), threading.Event()

    def work() -> None:
        while not stop.wait(chance.uniform(1.0, 6.0)):
            if not receiver.script:
                receiver.script.append(chance.choice([say(500), say(503), close]))

    threading.Thread(target=work, daemon=True).start()
    try:
        yield
    finally:
        stop.set()
        receiver.script.clear()


def tell(report: Report, *, seed: int) -> None:
    print(f"\nSeed {seed}\n\nFaults: {sum(report.faults.values())} of {len(report.faults)} kinds")
    for kind, count in sorted(report.faults.items()):
        print(f"  {count:5}  {kind}")
    if report.ended:
        told = ", ".join(f"{name} {count}" for name, count in sorted(report.ended.items()))
        print(f"  Ended by themselves, and started again: {told}")
    print(f"\nExecutions: {report.executions}")
    for status, count in sorted(report.statuses.items()):
        more = f", of these given up because ComfyUI died under them twice: {report.given_up}"
        print(f"  {count:5}  {status}{more if status == 'failed' else ''}")
    cost = report.cost
    share = cost.in_vain / cost.runs if cost.runs else 0.0
    print(
        f"\nGPU runs: {cost.runs}, in vain: {cost.in_vain} ({share:.1%}); "
        f"cancelled in mid-run: {cost.cancelled}; posts to ComfyUI: {cost.posts}"
    )
    print(f"Webhooks received: {report.webhooks}. Streams followed to their end: {report.followed}.")
    print(f"All was done {report.settled_after:.0f} s after the last fault.")
    print("\nWhat clients got instead of an answer, and asked again:")
    for answer, count in sorted(report.answers.items()):
        print(f"  {count:5}  {answer}")
    print(f"\nBroken promises: {len(report.broken)}")
    for sentence in report.broken:
        print(f"  ! {sentence}")
