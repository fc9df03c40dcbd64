"""The processes of a cluster, each of which can be killed, frozen and stopped separately."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import psutil

from script.local.processes import Process


class Part:
    """One process of the cluster. `start` does not wait until it is ready."""

    def __init__(self, kind: str, name: str, start: Callable[[], Process]) -> None:
        self.kind, self.name = kind, name
        self._start = start
        self._process: Process | None = None

    def start(self) -> None:
        self._process = self._start()

    def new_process(self) -> Process:
        """Start a second process beside it, managed by the caller."""
        return self._start()

    def adopt(self, process: Process) -> None:
        """Adopt a process that was started elsewhere."""
        self._process = process

    @property
    def process(self) -> Process:
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    def kill(self) -> None:
        self.process.kill()

    def kill_family(self) -> None:
        """With all its children, in whatever process group, such as PostgreSQL's sessions."""
        self._to_all(psutil.Process.kill)
        self.process.kill()

    def ask_to_stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send the signal without waiting; see `insist`."""
        self.process.signal(number)

    def insist(self, *, seconds: float) -> bool:
        """Wait until it has exited, then kill it, as a process manager does. Returns whether it was
        killed.
        """
        end = time.monotonic() + seconds
        while self.process.alive and time.monotonic() < end:
            time.sleep(0.05)
        killed = self.process.alive
        self.kill()
        return killed

    def freeze(self) -> None:
        self._to_all(psutil.Process.suspend)

    def thaw(self) -> None:
        self._to_all(psutil.Process.resume)

    def _to_all(self, do: Callable[[psutil.Process], None]) -> None:
        for each in self._family():
            try:
                do(each)
            except psutil.NoSuchProcess:
                pass  # it has just exited

    def _family(self) -> list[psutil.Process]:
        """PostgreSQL has a process for each connection."""
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
