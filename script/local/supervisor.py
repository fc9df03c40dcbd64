"""supervisord as our child: what dies is started again, and nothing outlives it or us.

We speak to it over its XML-RPC interface on a loopback port with a password (a unix socket's path may be
107 characters long at most).
"""

from __future__ import annotations

import os
import secrets
import shlex
import sys
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from script.local import ports
from script.local.console import UserError, explain
from script.local.paths import ROOT, write_private
from script.local.processes import Process

_CHILD = Path(__file__).with_name("child.py")


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program that supervisord keeps running."""

    name: str
    command: Sequence[str | Path]
    group: str
    env: Mapping[str, str] = field(default_factory=dict)  # in addition to the common ones
    only_env: Sequence[str] | None = None  # pass on only these
    user: str | None = None
    stop_signal: str = "TERM"
    stop_seconds: int = 10
    start_seconds: int = 1


class Supervisor:
    """Groups start individually, and stop one after the other, in reverse `order`."""

    def __init__(
        self,
        folder: Path,
        *,
        logs: Path,
        env: Mapping[str, str],
        programs: Sequence[Program],
        order: Sequence[str],
    ) -> None:
        self._programs = list(programs)
        self._order = list(order)
        self._logs = logs
        self._port = ports.free_port()
        self._password = secrets.token_urlsafe(24)
        self._config = folder / "supervisord.conf"
        self._pidfile = folder / "supervisord.pid"
        self.process = Process(
            "supervisord",
            [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "--configuration", self._config],
            log=logs / "supervisord.out.log",
            env=dict(env),
            cwd=ROOT,
        )

    def start(self) -> None:
        """Start supervisord itself; no program yet."""
        self._logs.mkdir(parents=True, exist_ok=True)
        write_private(self._config, self._text())
        self.process.start()
        self.process.wait_until(self._answers, seconds=20)

    def start_group(self, name: str) -> None:
        """Start the programs of one group, without waiting."""
        self._call("startProcessGroup", name, False)

    def stop(self) -> None:
        """Stop all in order; each has its own timeout."""
        patience = sum(
            max((program.stop_seconds for program in self._programs if program.group == group), default=0)
            for group in self._order
        )
        self.process.stop(seconds=patience + 5)

    def log_of(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def check(self) -> None:
        """UserError with the end of its log if supervisord gave up on a program, or has exited itself."""
        if not self.process.alive:
            raise UserError(explain(self.process.tail(), "supervisord ended", self.process.log))
        for state in self._call("getAllProcessInfo"):
            if state["statename"] == "FATAL":
                log = self.log_of(state["name"])
                lines = log.read_text(errors="replace").splitlines()[-15:] if log.exists() else []
                raise UserError(explain(lines, f"{state['name']} keeps exiting", log))

    def _answers(self) -> bool:
        try:
            return bool(self._call("getState"))
        except OSError:
            return False

    def _call(self, method: str, *arguments: Any) -> Any:
        address = f"http://comfyserve:{self._password}@127.0.0.1:{self._port}/RPC2"
        with xmlrpc.client.ServerProxy(address) as server:
            return getattr(server.supervisor, method)(*arguments)

    def _text(self) -> str:
        sections: dict[str, dict[str, Any]] = {
            "supervisord": {
                "logfile": self._logs / "supervisord.log",
                "pidfile": self._pidfile,
                "childlogdir": self._logs,
                "nodaemon": "true",
                # As root it would otherwise warn that it stays root.
                **({"user": "root"} if os.geteuid() == 0 else {}),
            },
            "inet_http_server": {
                "port": f"127.0.0.1:{self._port}",
                "username": "comfyserve",
                "password": self._password,
            },
            "rpcinterface:supervisor": {
                "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
            },
        }
        for program in self._programs:
            sections[f"program:{program.name}"] = self._section(program)
        for priority, group in enumerate(self._order, 1):
            names = [program.name for program in self._programs if program.group == group]
            if names:
                sections[f"group:{group}"] = {"programs": ",".join(names), "priority": priority}
        return "\n".join(
            f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in values.items())
            for name, values in sections.items()
        )

    def _section(self, program: Program) -> dict[str, Any]:
        wrapper = [sys.executable, _CHILD, f"--parent={self._pidfile}", f"--signal=SIG{program.stop_signal}"]
        if program.user:
            wrapper.append(f"--user={program.user}")
        if program.only_env is not None:
            wrapper.append(f"--only={','.join(program.only_env)}")
        command = shlex.join(str(part) for part in (*wrapper, "--", *program.command))
        section = {
            "command": command.replace("%", "%%"),
            "directory": "/" if program.user else ROOT,
            "autostart": "false",
            "autorestart": "true",
            "startsecs": program.start_seconds,
            "startretries": 3,
            "stopsignal": program.stop_signal,
            "stopwaitsecs": program.stop_seconds,
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": str(self.log_of(program.name)).replace("%", "%%"),
            "stdout_logfile_maxbytes": "20MB",
            "stdout_logfile_backups": 2,
        }
        if program.env:
            pairs = (f'{key}="{_escaped(value)}"' for key, value in program.env.items())
            section["environment"] = ",".join(pairs)
        return section


def _escaped(value: str) -> str:
    return value.replace("%", "%%").replace('"', '\\"')
