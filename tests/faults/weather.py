"""The faults: a seeded random sequence of kills, restarts, freezes and cut lines over a world."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import psycopg
import redis

from tests.comfyui.proxy import Proxy
from tests.faults.world import Part, World

AT_ONCE = 2  # faults that may overlap
STOP_SECONDS = 13.0  # DRAIN_SECONDS and ten: what script/serve gives its workers too

Undo = Callable[[], None]
Seconds = tuple[float, float]


@dataclass(frozen=True)
class Fault:
    """`begin` does it and returns what ends it; in between lie `seconds`, drawn from one of the ranges."""

    kind: str
    target: str  # nothing else happens to it meanwhile
    begin: Callable[[], Undo]
    seconds: tuple[Seconds, ...]


def nothing() -> None:
    pass


# -- what may happen -----------------------------------------------------------------------------------
BRIEF, LONG = (0.0, 1.0), (5.0, 25.0)


def faults_of(world: World) -> list[Fault]:
    return [*_of_parts(world), *_of_links(world), *_of_stores(world)]


def _of_parts(world: World) -> Iterator[Fault]:
    for part in world.parts.values():
        if part.kind == "PostgreSQL":
            continue  # has its own ways
        name, kind = part.name, part.kind
        down = (BRIEF, LONG)
        yield Fault(f"{kind} killed", name, partial(_kill, part), down)
        yield Fault(f"{kind} frozen", name, partial(_freeze, part), ((0.5, 5.0), (8.0, 30.0)))
        if kind not in ("storage", "ComfyUI", "Valkey"):
            yield Fault(f"{kind} stopped", name, partial(_stop, part), down)


def _of_links(world: World) -> Iterator[Fault]:
    for name, link in world.links.items():
        kind = name.partition(" of ")[0]

        def cut(link: Proxy = link) -> Undo:
            link.cut()
            return link.mend

        def hold(link: Proxy = link) -> Undo:
            link.hold()
            return link.mend

        yield Fault(f"line to {kind} cut", name, cut, (BRIEF, (2.0, 12.0)))
        yield Fault(f"line to {kind} held", name, hold, ((1.0, 5.0), (8.0, 20.0)))


def _of_stores(world: World) -> Iterator[Fault]:
    postgres = world.parts["PostgreSQL"]
    for how, number in (("fast", signal.SIGINT), ("immediately", signal.SIGQUIT)):
        restart = partial(_stop, postgres, number)
        yield Fault(f"PostgreSQL restarted {how}", "PostgreSQL", restart, (BRIEF, (2.0, 10.0)))
    yield Fault("PostgreSQL frozen", "PostgreSQL", partial(_freeze, postgres), ((0.5, 4.0), (5.0, 12.0)))
    yield Fault("PostgreSQL sessions ended", "PostgreSQL", partial(_end_sessions, world), (BRIEF,))
    yield Fault("Valkey emptied", "Valkey", partial(_empty, world), (BRIEF,))


def _kill(part: Part) -> Undo:
    part.kill()
    return part.start


def _stop(part: Part, number: signal.Signals = signal.SIGTERM) -> Undo:
    part.ask_to_stop(number)

    def start_again() -> None:
        if part.insist(seconds=STOP_SECONDS):
            print(f"  {part.name} had not ended after {STOP_SECONDS:g} s, and was killed", flush=True)
        part.start()

    return start_again


def _freeze(part: Part) -> Undo:
    part.freeze()
    return part.thaw


def _end_sessions(world: World) -> Undo:
    with psycopg.connect(world.postgres.url(), autocommit=True, connect_timeout=5) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        )
    return nothing


def _empty(world: World) -> Undo:
    with redis.Redis.from_url(world.valkey.url(), socket_timeout=5) as client:
        client.flushall()
    return nothing


# -- the sequence --------------------------------------------------------------------------------------
class Weather:
    """`rage` for so long, in the main thread: the kernel ends processes with the thread that started them."""

    def __init__(self, world: World, *, seed: int, pace: float, longest: float) -> None:
        self.counts: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()  # parts that ended by themselves
        self._world = world
        self._faults = faults_of(world)
        self._chance = random.Random(f"{seed}.weather")
        self._longest = longest  # seconds that a fault may last
        self._pace = pace  # seconds between two faults, on average
        self._under_way: list[tuple[float, Fault, Undo]] = []
        self._began = time.monotonic()

    def rage(self, *, seconds: float) -> None:
        """Until the time is over; what is under way then is ended."""
        end = time.monotonic() + seconds
        due = time.monotonic()
        with self._ending_all():
            while (now := time.monotonic()) < end:
                self._end_those_over(now)
                self.tend()
                if now >= due and len(self._under_way) < AT_ONCE:
                    self._begin(self._draw())
                    due = now + self._chance.uniform(0.3, 1.7) * self._pace
                time.sleep(0.05)

    def tend(self) -> None:
        """A fault may have ended what it did not aim at."""
        busy = {fault.target for _, fault, _ in self._under_way}
        for name in self._world.tend(but=busy):
            self.ended[name] += 1
            self._say(f"{name} had ended, and is started again")

    def _draw(self) -> Fault:
        """Each kind as often as any other, whatever the number of its targets."""
        busy = {fault.target for _, fault, _ in self._under_way}
        free = [fault for fault in self._faults if fault.target not in busy]
        # Rare ones first: in a short run each kind has its turn.
        fewest = min(self.counts[fault.kind] for fault in free)
        rare = sorted({fault.kind for fault in free if self.counts[fault.kind] <= fewest + 1})
        kind = self._chance.choice(rare)
        return self._chance.choice([fault for fault in free if fault.kind == kind])

    def _begin(self, fault: Fault) -> None:
        seconds = min(self._chance.uniform(*self._chance.choice(fault.seconds)), self._longest)
        self._say(f"{fault.kind}: {fault.target}, for {seconds:.1f} s")
        self.counts[fault.kind] += 1
        self._under_way.append((time.monotonic() + seconds, fault, fault.begin()))

    def _end_those_over(self, now: float) -> None:
        for entry in [entry for entry in self._under_way if entry[0] <= now]:
            self._under_way.remove(entry)
            entry[2]()
            self._say(f"  over: {entry[1].kind}: {entry[1].target}")

    @contextmanager
    def _ending_all(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._end_those_over(float("inf"))

    def _say(self, text: str) -> None:
        print(f"[{time.strftime('%H:%M:%S')} {time.monotonic() - self._began:6.1f} s] {text}", flush=True)
