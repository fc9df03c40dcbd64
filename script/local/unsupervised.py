"""The same programs as `supervisor.py` starts, as our own children: for the short-lived demo.

Nothing is restarted: an unexpected exit is reported as an error immediately. Only the programs that hold data
are stopped gracefully, and before them the workers, which sign off in the database; the rest is killed.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from script.local.console import UserError, explain
from script.local.paths import ROOT
from script.local.processes import Process
from script.local.supervisor import Program

SIGN_OFF_SECONDS = 10  # for a worker with nothing left to run


class Unsupervised:
    """Groups start individually, and stop together. `stores` are the groups that hold data, `workers` the
    programs that sign off there.
    """

    def __init__(
        self,
        *,
        logs: Path,
        env: Mapping[str, str],
        programs: Sequence[Program],
        stores: Sequence[str],
        workers: Sequence[str],
    ) -> None:
        self._programs = list(programs)
        self._workers = list(workers)
        self._stores = list(stores)
        self._logs = logs
        self._env = dict(env)
        self._running: list[tuple[Program, Process]] = []

    def start(self) -> None:
        """Does nothing; programs start by group."""

    def start_group(self, name: str) -> None:
        for program in self._programs:
            if program.group == name:
                self._running.append((program, self._process(program).start()))

    def check(self) -> None:
        """UserError with the end of its log if a program has exited."""
        for program, process in self._running:
            if not process.alive:
                what = f"{program.name} ended ({process.code})"
                raise UserError(explain(process.tail(15), what, process.log))

    def stop(self) -> None:
        workers, stores = [], []
        for program, process in self._running:
            if program.name in self._workers:
                process.ask_to_stop()
                workers.append(process)
            elif program.group in self._stores:
                stores.append((program, process))
            else:
                process.kill()
        for process in workers:
            process.stop(seconds=SIGN_OFF_SECONDS)
        for _, process in stores:
            process.ask_to_stop()
        for program, process in stores:
            process.stop(seconds=program.stop_seconds)
        self._running.clear()

    def _process(self, program: Program) -> Process:
        env = self._env | dict(program.env)
        if program.only_env is not None:
            env = {key: env[key] for key in program.only_env if key in env}
        orderly = signal.Signals[f"SIG{program.stop_signal}"]
        return Process(
            program.name,
            program.command,
            log=self._logs / f"{program.name}.log",
            env=env,
            cwd=Path("/") if program.user else ROOT,
            user=program.user,
            stop_signal=orderly,
            death_signal=orderly if program.group in self._stores else signal.SIGKILL,
        )
