"""Processes that never outlive us: a session of their own, a log, a stop timeout.

The kernel ends a child when we die (PR_SET_PDEATHSIG), also on SIGKILL; while we live, `stop` first
terminates and then kills the whole group. Start processes from the main thread only: the kernel tracks the
death of the *thread* that started one.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from script.local.console import UserError, explain
from script.local.parents import die_with_parent

_started: weakref.WeakSet[Process] = weakref.WeakSet()


class Process:
    """One program in a process group of its own.

    `stop_signal` requests a graceful shutdown. `death_signal` is what it gets if we die first. `user` is the
    account it runs under, if we are root.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.log = log
        self._env = env
        self._cwd = cwd
        self._user = user
        self._stop_signal = stop_signal
        self._death_signal = death_signal
        self._popen: subprocess.Popen[bytes] | None = None
        self._asked = False

    def start(self) -> Self:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        parent, death = os.getpid(), self._death_signal
        self._asked = False
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                user=self._user,
                group=self._user and _group_of(self._user),
                extra_groups=[] if self._user else None,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(parent, death),
            )
        _started.add(self)
        return self

    @property
    def pid(self) -> int:
        assert self._popen is not None, f"{self.name} was never started"
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def code(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._popen.poll() if self._popen else None

    def ask_to_stop(self) -> None:
        """Send the stop signal, without waiting: see `stop`. Sent twice, some would abort their graceful
        shutdown."""
        if self._popen is not None and not self._asked:
            self._popen.send_signal(self._stop_signal)
            self._asked = True

    def stop(self, *, seconds: float = 10) -> int | None:
        """Stop it, and kill its whole group if it has not exited after `seconds`. Returns its exit status."""
        if self._popen is None:
            return None
        if self.alive:
            self.ask_to_stop()
            try:
                self._popen.wait(seconds)
            except subprocess.TimeoutExpired:
                pass
        return self.kill()

    def kill(self) -> int | None:
        """Kill it and all it started (SIGKILL), and wait until it has exited."""
        if self._popen is None:
            return None
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        return self._popen.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send one signal to the process itself (SIGSTOP, SIGCONT, SIGTERM, …)."""
        os.kill(self.pid, number)

    def tail(self, lines: int = 40) -> list[str]:
        """The end of its log."""
        try:
            return self.log.read_text(errors="replace").splitlines()[-lines:]
        except OSError:
            return []

    def wait_until(self, ready: Callable[[], bool], *, seconds: float, what: str = "be ready") -> None:
        """Wait for `ready`; UserError with the end of the log if it exits or takes too long."""
        end = time.monotonic() + seconds
        while True:
            alive = self.alive  # asked first: it may become ready by its end
            if ready():
                return
            if not alive:
                raise UserError(explain(self.tail(), f"{self.name} ended ({self.code})", self.log))
            if time.monotonic() > end:
                raise UserError(
                    explain(self.tail(), f"{self.name} did not {what} in {seconds:g} s", self.log)
                )
            time.sleep(0.02)


def _group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


@atexit.register
def _end_all() -> None:
    for process in list(_started):
        if process.alive:
            process.stop(seconds=5)
