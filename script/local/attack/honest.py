"""An ordinary client: its latency, alone and under attack.

It is a process of its own (`python -m script.local.attack.honest URL`, the token on its standard input), so
that it does not wait for the attack's threads.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from script.local.attack.callers import Caller
from script.local.attack.report import Report
from script.local.paths import ROOT

PATHS = ("/auth/me", "/workflows/?limit=5")
PROBES = ("/health/liveness", "/health/readiness")  # as load balancers send them
PAUSE = 0.02
TIMES = 3.0  # factor by which its 99th percentile may increase
FLOOR = 1.0  # seconds: always acceptable; a busy machine causes as much by itself
STALLED = 5.0  # seconds: too long even for one request among few


class Latency:
    """Durations of requests in seconds, and the failures. `probes`: requests as load balancers send them."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.probes: list[float] = []
        self.failed: list[str] = []

    def percentile(self, share: float) -> float:
        return _percentile(self.seconds, share)

    def __str__(self) -> str:
        p50, p99 = self.percentile(0.5) * 1000, self.percentile(0.99) * 1000
        failed = f", {len(self.failed)} failed ({self.failed[0]})" if self.failed else ""
        probes = _percentile(self.probes, 0.99) * 1000
        return (
            f"p50 {p50:.0f} ms, p99 {p99:.0f} ms of {len(self.seconds)}, probes p99 {probes:.0f} ms{failed}"
        )


def _percentile(seconds: list[float], share: float) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _is_late(seconds: list[float], allowed: float) -> bool:
    """Whether the 99th percentile exceeds `allowed`; one request alone counts only if it stalled."""
    several = len(seconds) >= 100 or sum(each > allowed for each in seconds) > 1
    return _percentile(seconds, 0.99) > (allowed if several else max(allowed, STALLED))


class Honest:
    """Sends the victim's ordinary requests in the background."""

    def __init__(self, caller: Caller, report: Report) -> None:
        self._caller, self._report = caller, report
        self.alone = Latency()

    def measure_alone(self, *, seconds: float) -> None:
        with self._measuring(self.alone):
            time.sleep(seconds)
        self._report.note(f"{'honest client, alone':42} {self.alone}")

    @contextmanager
    def beside(self, what: str) -> Iterator[Latency]:
        """Measure during the block; then compare with the latency alone."""
        found = Latency()
        with self._measuring(found):
            yield found
        self._report.note(f"{f'honest client, {what}':42} {found}")
        allowed = max(FLOOR, TIMES * self.alone.percentile(0.99))
        if any(_is_late(seconds, allowed) for seconds in (found.seconds, found.probes)):
            self._report.leak("honest client", f"{what}: {found}; {allowed * 1000:.0f} ms are allowed")
        if found.failed:
            self._report.leak("honest client", f"{what}: {found}")

    @contextmanager
    def _measuring(self, into: Latency) -> Iterator[None]:
        command = [sys.executable, "-m", "script.local.attack.honest", self._caller.url]
        with subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(f"{self._caller.token}\n")
            client.stdin.flush()
            client.stdout.readline()  # it has started
            try:
                yield
            finally:
                client.stdin.close()
                measured = json.loads(client.stdout.read())
                into.seconds, into.probes, into.failed = (
                    measured["seconds"],
                    measured["probes"],
                    measured["failed"],
                )


def _ask_on(url: str) -> None:
    """Runs until standard input ends."""
    caller = Caller(url, "victim", token=sys.stdin.readline().strip())
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    found = Latency()
    print("begun", flush=True)
    for path in itertools.cycle(PATHS + PROBES):
        if over.wait(PAUSE):
            break
        began = time.monotonic()
        answer = caller.get(path)
        (found.probes if path in PROBES else found.seconds).append(time.monotonic() - began)
        if answer.status != 200:
            found.failed.append(f"{path}: {answer.status or 'no answer'}")
    print(json.dumps(vars(found)), flush=True)


if __name__ == "__main__":
    _ask_on(sys.argv[1])
