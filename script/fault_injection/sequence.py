"""A seeded random sequence of faults in a cluster."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import redis

from script.fault_injection import line_faults, process_faults, store_faults
from script.fault_injection.cluster import Cluster
from script.fault_injection.fault import CannotBegin, Fault, Undo

AT_ONCE = 2  # faults that may overlap


def faults_of(cluster: Cluster, chance: random.Random) -> list[Fault]:
    return [*process_faults.of(cluster, chance), *line_faults.of(cluster), *store_faults.of(cluster, chance)]


class Sequence:
    """Call `run` in the main thread: the kernel kills children when the thread that started them exits.

    `only`: words, of which a fault's kind must contain one; without any, all kinds are drawn.
    """

    def __init__(
        self, cluster: Cluster, *, seed: int, pace: float, longest: float, only: tuple[str, ...] = ()
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.not_begun: Counter[str] = Counter()  # the required state was not reached
        self.ended: Counter[str] = Counter()  # parts that exited unexpectedly
        self._cluster = cluster
        self._chance = random.Random(f"{seed}.faults")
        faults = faults_of(cluster, self._chance)
        self._faults = [each for each in faults if not only or any(word in each.kind for word in only)]
        self._longest = longest  # maximum seconds of a fault
        self._pace = pace  # seconds between two faults, on average
        self._under_way: list[tuple[float, Fault, Undo]] = []
        self._began = time.monotonic()

    @property
    def kinds(self) -> set[str]:
        return {fault.kind for fault in self._faults}

    def run(self, *, seconds: float) -> None:
        """Until the time is over; faults still in progress are ended then."""
        end = time.monotonic() + seconds
        due = time.monotonic()
        with self._ending_all():
            while (now := time.monotonic()) < end:
                self._end_those_over(now)
                self.restart_ended()
                if now >= due and len(self._under_way) < AT_ONCE:
                    if (fault := self._draw()) is not None:
                        self._begin(fault)
                    due = time.monotonic() + self._chance.uniform(0.3, 1.7) * self._pace
                time.sleep(0.05)

    def restart_ended(self) -> None:
        """As a process manager does: a fault may have stopped more than its target."""
        for name in self._cluster.restart_ended(but=self._busy()):
            self.ended[name] += 1
            self._log(f"{name} had exited and is restarted")

    def _busy(self) -> set[str]:
        return {target for _, fault, _ in self._under_way for target in fault.targets}

    def _draw(self) -> Fault | None:
        """Each kind with the same probability, whatever the number of its targets. None: all are busy."""
        busy = self._busy()
        free = [fault for fault in self._faults if not busy & set(fault.targets)]
        if not free:
            return None
        # Rare ones first, so that each kind occurs even in a short run.
        tried = self.counts + self.not_begun
        fewest = min(tried[fault.kind] for fault in free)
        rare = sorted({fault.kind for fault in free if tried[fault.kind] <= fewest})
        kind = self._chance.choice(rare)
        return self._chance.choice([fault for fault in free if fault.kind == kind])

    def _begin(self, fault: Fault) -> None:
        seconds = min(self._chance.uniform(*self._chance.choice(fault.seconds)), self._longest)
        targets = ", ".join(fault.targets)
        try:
            undo = fault.begin()
        except (CannotBegin, OSError, psycopg.Error, redis.RedisError) as exc:
            self.not_begun[fault.kind] += 1
            self._log(f"not started: {fault.kind}: {targets}: {exc}")
            return
        self._log(f"{fault.kind}: {targets}, for {seconds:.1f} s")
        self.counts[fault.kind] += 1
        self._under_way.append((time.monotonic() + seconds, fault, undo))

    def _end_those_over(self, now: float) -> None:
        for entry in [entry for entry in self._under_way if entry[0] <= now]:
            self._under_way.remove(entry)
            entry[2]()
            self._log(f"  over: {entry[1].kind}: {', '.join(entry[1].targets)}")

    @contextmanager
    def _ending_all(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._end_those_over(float("inf"))

    def _log(self, text: str) -> None:
        print(f"[{time.strftime('%H:%M:%S')} {time.monotonic() - self._began:6.1f} s] {text}", flush=True)
