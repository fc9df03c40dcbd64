"""A complete fault injection run: clients, faults, and the checks afterwards."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from script.fault_injection import client_checks, store_checks
from script.fault_injection.clients import Client, Ledger
from script.fault_injection.cluster import Cluster
from script.fault_injection.sequence import Sequence
from script.harness.receiver import Receiver, close, say

SETTLE_SECONDS = 240.0
CATCH_UP_SECONDS = 30.0


@dataclass(frozen=True)
class Report:
    faults: Counter[str]
    not_begun: Counter[str]  # the required state was not reached
    left_out: list[str]  # kinds of faults that this machine does not permit
    ended: Counter[str]  # parts that exited unexpectedly and were restarted
    statuses: Counter[str]
    given_up: int
    answers: Counter[str]
    followed: int
    webhooks: int
    cost: store_checks.Cost
    waits: dict[str, float]  # user -> median seconds until the start
    streams: Counter[str]
    settled_after: float  # seconds after the last fault
    broken: list[str] = field(default_factory=list)

    @property
    def executions(self) -> int:
        return sum(self.statuses.values())


def attack(
    cluster: Cluster,
    *,
    seconds: float,
    seed: int,
    clients: int,
    pace: float,
    pause: float,
    longest: float = math.inf,
    only: tuple[str, ...] = (),
) -> Report:
    """Everything between start and end of the cluster. `pace`: seconds between faults, none of which lasts
    longer than `longest`; `pause`: the longest pause of a client between its batches. `only`: as in
    `Sequence`. The last client is a greedy one.
    """
    ledger = Ledger()
    sequence = Sequence(cluster, seed=seed, pace=pace, longest=longest, only=only)
    with Receiver() as receiver, _misbehave(receiver, seed):
        people = _clients(cluster, ledger, receiver, number=clients, seed=seed, pause=pause)
        cluster.operator  # noqa: B018  (registers before anything fails)
        for person in people:
            person.start()
        sequence.run(seconds=seconds)
        over = time.monotonic()
        sequence.restart_ended()
        cluster.wait_ready()
        for person in people:
            person.stop.set()
        for person in people:
            person.join(60)
        store_checks.settle(cluster, ledger, seconds=SETTLE_SECONDS)
        settled = time.monotonic() - over
        _end_listeners(people, ledger)
        broken = client_checks.broken_for_clients(cluster, ledger, receiver)
        broken += store_checks.broken_behind(cluster)
        return _report(cluster, ledger, sequence, receiver, settled=settled, broken=broken)


def _clients(
    cluster: Cluster, ledger: Ledger, receiver: Receiver, *, number: int, seed: int, pause: float
) -> list[Client]:
    return [
        Client(
            cluster.stack,
            ledger,
            number=n,
            seed=seed,
            hook=receiver.url,
            pause=pause,
            greedy=n == number,
        )
        for n in range(1, number + 1)
    ]


def _end_listeners(people: list[Client], ledger: Ledger) -> None:
    """They have a few seconds to process what has ended."""
    owed: dict[str, set[str]] = {}
    for promise in ledger.promises:
        owed.setdefault(promise.owner.name, set()).add(promise.id)
    end = time.monotonic() + CATCH_UP_SECONDS
    for person in people:
        while not owed.get(person.name, set()) <= set(person.listener.ends) and time.monotonic() < end:
            time.sleep(0.1)
        person.listener.stop.set()


def _report(
    cluster: Cluster,
    ledger: Ledger,
    sequence: Sequence,
    receiver: Receiver,
    *,
    settled: float,
    broken: list[str],
) -> Report:
    statuses: Counter[str] = Counter(each.result.get("status", "lost") for each in ledger.promises)
    listeners = {each.owner.listener for each in ledger.promises}
    errors = [each.result.get("error") or "" for each in ledger.promises]
    return Report(
        faults=sequence.counts,
        not_begun=sequence.not_begun,
        left_out=_left_out(cluster),
        ended=sequence.ended,
        statuses=statuses,
        given_up=sum(bool(client_checks.HONEST.match(error)) for error in errors),
        answers=ledger.answers,
        followed=ledger.followed,
        webhooks=len(receiver.calls),
        cost=store_checks.cost_of(cluster),
        waits=client_checks.waits(cluster),
        streams=Counter(
            connections=sum(each.connections for each in listeners),
            gaps=sum(each.gaps for each in listeners),
            ends=sum(len(each.ends) for each in listeners),
        ),
        settled_after=settled,
        broken=broken,
    )


def _left_out(cluster: Cluster) -> list[str]:
    left_out = []
    if not cluster.disks:
        left_out.append("full disks (needs root to mount small file systems)")
    if not cluster.clocks.available:
        left_out.append("wrong clocks (needs a C compiler)")
    return left_out


@contextmanager
def _misbehave(receiver: Receiver, seed: int) -> Iterator[None]:
    """Occasionally the webhook receiver returns an error, or does not respond."""
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


def print_report(report: Report, *, seed: int) -> None:
    print(f"\nSeed {seed}\n\nFaults: {sum(report.faults.values())} of {len(report.faults)} kinds")
    for kind, count in sorted(report.faults.items()):
        print(f"  {count:5}  {kind}")
    for kind, count in sorted(report.not_begun.items()):
        print(f"  {count:5}  not started, since the required state was not reached: {kind}")
    for what in report.left_out:
        print(f"  Not run here: {what}")
    if report.ended:
        exited = ", ".join(f"{name} {count}" for name, count in sorted(report.ended.items()))
        print(f"  Exited by themselves and restarted: {exited}")
    print(f"\nExecutions: {report.executions}")
    for status, count in sorted(report.statuses.items()):
        more = f", of these failed because ComfyUI died twice during them: {report.given_up}"
        print(f"  {count:5}  {status}{more if status == 'failed' else ''}")
    cost = report.cost
    share = cost.in_vain / cost.runs if cost.runs else 0.0
    print(
        f"\nGPU runs: {cost.runs}, wasted: {cost.in_vain} ({share:.1%}); "
        f"cancelled while running: {cost.cancelled}; posts to ComfyUI: {cost.posts}"
    )
    for why, count in cost.unavoidable.items():
        print(f"  because of {why}: {count}")
    print(f"Webhooks received: {report.webhooks}. Streams followed to their end: {report.followed}.")
    streams = report.streams
    print(
        f"Streams of all executions: {streams['connections']} connections, {streams['ends']} ends,"
        f" {streams['gaps']} gaps."
    )
    median = ", ".join(f"{name} {seconds:.1f}" for name, seconds in sorted(report.waits.items()))
    print(f"Median seconds until the start at normal priority: {median}")
    print(f"Everything had ended {report.settled_after:.0f} s after the last fault.")
    print("\nFailures that clients received instead of a response, and retried:")
    for answer, count in sorted(report.answers.items()):
        print(f"  {count:5}  {answer}")
    print(f"\nViolated guarantees: {len(report.broken)}")
    for sentence in report.broken:
        print(f"  ! {sentence}")
