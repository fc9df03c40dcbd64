"""Console output of the commands: one line per step with its duration, and actionable errors."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from script.local.parents import die_with_parent

DISK_FULL = "The disk is full. Free some space and run the command again."
_NO_REGISTRY = "The package registry could not be reached. Is there a network, and is a proxy needed?"
_NO_NETWORK = "The package registry was not found. Is there a network?"
# Output of a failed command -> what to do about it. The first match is shown.
_CAUSES = (
    ("No space left on device", DISK_FULL),
    ("ensurepip is not available", "This Python has no venv module (Debian, Ubuntu: python3-venv)."),
    ("name resolution", _NO_NETWORK),
    ("dns error", _NO_NETWORK),
    ("Network is unreachable", "There is no network."),
    ("couldn't get a connection", "The database does not respond. Is DATABASE_URL correct?"),
    ("NewConnectionError", _NO_REGISTRY),
    ("connection broken by", _NO_REGISTRY),  # pip's message, which also covers a proxy that refuses
    ("client error (Connect)", _NO_REGISTRY),  # uv's message
    (
        "No matching distribution",
        "A package was not found. Is there a network, and is this Python 3.11 to 3.13?",
    ),
)


class UserError(Exception):
    """An error that the user can fix; the message says how."""


def advice(error: OSError) -> str | None:
    """What the user can do about it; None if it is more likely our bug."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{DISK_FULL}\n    {error}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"A file or folder is not writable; set DATA_DIR=… to use another folder.\n    {error}"
    return None


@contextmanager
def step(text: str) -> Iterator[None]:
    """Print `text`, run the block, print the duration. On a terminal both share a line."""
    live = sys.stdout.isatty()
    print(f"  … {text}", end="" if live else "\n", flush=True)
    began = time.monotonic()
    try:
        yield
    except BaseException:
        print(f"\r  ✗ {text}\033[K" if live else f"  ✗ {text}", flush=True)
        raise
    took = f"{time.monotonic() - began:.1f} s"
    print(f"\r  ✓ {text}  {took}\033[K" if live else f"  ✓ {text}  {took}", flush=True)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Run the block exclusively among processes with the same file; prints a message while waiting."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"  … another process is working in {lock.parent}; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(
    command: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> None:
    """Run `command` with its output in `log`, showing the last line on a terminal.

    Raises UserError with the cause, if known, and the end of the output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    parent = os.getpid()
    with log.open("a") as file:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=env,
                cwd=cwd,
                start_new_session=True,  # only we receive Ctrl-C, and stop the whole group, see below
                preexec_fn=lambda: die_with_parent(parent, signal.SIGKILL),
            )
        except OSError as error:
            raise UserError(f"{command[0]} could not be started: {error}") from error
        try:
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    file.write(line)
                    lines = [*lines[-400:], line.rstrip()]
                    _show(line)
            code = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    if code:
        raise UserError(explain(lines, f"{Path(command[0]).name} failed ({code})", log))


def explain(lines: Sequence[str], what: str, log: Path | None = None) -> str:
    """The known cause if there is one, `what`, the last lines, and the path of the full log."""
    text = "\n".join(lines)
    cause = next((what_to_do for mark, what_to_do in _CAUSES if mark in text), None)
    tail = "\n".join(f"    {line}" for line in lines[-12:])
    where = f"Full log: {log}" if log else None
    return "\n".join(part for part in (cause, f"{what}:", tail, where) if part)


def _show(line: str) -> None:
    if sys.stdout.isatty() and line.strip():
        width = shutil.get_terminal_size().columns - 8
        print(f"\n\033[2m      {line.strip()[:width]}\033[0m\033[K\033[A", end="", flush=True)
