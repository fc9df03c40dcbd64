"""Real services for benchmarks, in a temporary folder that is deleted at the end.

    with Services() as services:
        stack = services.start_stack()                 # web process and database, see script/harness/stack.py
        comfyui = services.start_comfyui()             # a real one, with the test nodes
        stack.start_worker(comfyui_url=comfyui.url)

Unlike in tests PostgreSQL writes to disk before it says so, and requests are counted (up to a limit that
nobody reaches): both cost what they cost in use.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from script.harness.stack import Stack
from script.local import comfyui as local_comfyui
from script.local import comfyui_install, ports
from script.local.paths import ROOT
from script.local.postgres import Postgres
from script.local.valkey import Valkey

NODES = ROOT / "tests" / "comfyui_nodes"
NEVER = 1_000_000  # a rate limit that is counted but never reached
DATABASE = "comfyserve"


class Services:
    """PostgreSQL and Valkey run inside the `with`; the rest is started by its methods."""

    def __init__(self, *, durable: bool = True, env: dict[str, str] | None = None) -> None:
        """`durable` False: no fsync, if disk writes are not measured. `env`: settings for all processes."""
        self.folder = Path(tempfile.mkdtemp(prefix="comfyserve-benchmark-"))
        self._env = env or {}
        logs = self.folder / "logs"
        self.postgres = Postgres(
            self.folder / "postgres", port=ports.free_port(), log=logs / "postgres.log", durable=durable
        )
        self.valkey = Valkey(self.folder / "valkey", port=ports.free_port(), log=logs / "valkey.log")
        self._logs = logs
        self._comfyui: local_comfyui.ComfyUI | None = None
        self._stack: Stack | None = None

    def __enter__(self) -> Self:
        try:
            self.postgres.prepare()
            self.valkey.prepare()
            self.postgres.start()
            self.valkey.start()
            self.postgres.wait()
            self.valkey.wait()
            self.postgres.create_database(DATABASE)
            self._set_environment()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is not None and self._stack is not None:
            for title, text in self._stack.log_sections():
                print(f"--- {title}\n{text}")
        self._end()

    def _set_environment(self) -> None:
        for name in ("DEBUG", "COMFYUI_NAME", "COMFYUI_HEADERS", "STORAGE_URL", "PUBLIC_URL"):
            os.environ.pop(name, None)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ.update(
            DATABASE_URL=self.postgres.url(DATABASE),
            REDIS_URL=self.valkey.url(),
            DATA_DIR=str(self.folder / "data"),
            SECRET_KEY="a key for benchmarks only, long enough for HMAC with SHA-256",
            DJANGO_SETTINGS_MODULE="comfyserve.settings",
            ALLOWED_HOSTS="*",
            RATE_LIMITS=f"{NEVER}/m,{NEVER}/h,{NEVER}/d",
            MAX_PENDING=str(NEVER),
        )
        os.environ.update(self._env)

    def _end(self) -> None:
        if self._stack is not None:
            self._stack.stop()
        if self._comfyui is not None:
            self._comfyui.process.kill()
        self.valkey.stop()
        self.postgres.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_stack(self) -> Stack:
        """Database and web process; workers are up to the caller (`stack.start_worker`)."""
        self._stack = Stack(
            folder=self.folder / "stack",
            logs=self._logs,
            database_url=self.postgres.url(DATABASE),
            redis_url=self.valkey.url(),
        )
        self._stack.start()
        return self._stack

    def start_comfyui(self) -> local_comfyui.ComfyUI:
        """A real ComfyUI on the CPU with tiny models and the test nodes; installed if need be."""
        install = comfyui_install.default_folder()
        comfyui_install.install(install)
        comfyui = self._comfyui = local_comfyui.ComfyUI(
            self.folder / "comfyui",
            port=ports.free_port(),
            log=self._logs / "comfyui.log",
            models=[local_comfyui.tiny_models(install)],
            nodes=sorted(NODES.glob("*.py")),
        )
        comfyui.prepare()
        comfyui.start()
        comfyui.wait()
        return comfyui

    def set_up_django(self) -> None:
        """Django in this process, on the migrated database `DATABASE_URL` names."""
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)


# -- options --------------------------------------------------------------------------------------------
def command_line(description: str | None) -> argparse.ArgumentParser:
    """For a benchmark's options; its docstring is what `--help` prints."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


# -- output ---------------------------------------------------------------------------------------------
def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile; `share` from 0 to 1."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def say(text: str) -> None:
    """Print a progress line with the time and the load of the machine."""
    print(f"[{time.strftime('%H:%M:%S')} load {os.getloadavg()[0]:.1f}] {text}", flush=True)


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Numbers are aligned to the right, and get two decimals where they have any.

    Also appended as a line of JSON to the file that RESULTS_FILE names, for `benchmarks.results`.
    """
    if path := os.environ.get("RESULTS_FILE"):
        with Path(path).open("a") as file:
            file.write(json.dumps({"head": list(head), "rows": [list(row) for row in rows]}) + "\n")
    cells = [[f"{value:,.2f}" if isinstance(value, float) else str(value) for value in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(head), *cells]) for column in range(len(head))]
    print()
    for line in [list(head), ["-" * width for width in widths], *cells]:
        first, *rest = (cell for cell in line)
        aligned = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *aligned]))
    print()
