"""Create the virtual environment and install the packages. Needs only a Python with `venv`."""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from script.local import running, virtual_environment
from script.local.console import UserError, alone, run, step
from script.local.paths import ROOT, VENV, data_dir

HELP = """Set ComfyServe up in this folder: a virtual environment in .venv with all packages.

Safe to repeat, and quick when there is nothing to do. The other commands do it by themselves.
PYTHON names the interpreter (3.11 to 3.13)."""

_STAMP = VENV / ".comfyserve"
_FREE_BYTES = 700_000_000
_RUNTIME = ("requirements.txt", "requirements-local.txt")


def ensure(*, dev: bool = False) -> None:
    """Install what is missing; with `dev` also what tests and checks need.

    Raises UserError: no venv module, no network, disk full.
    """
    files = [*_RUNTIME, "requirements-dev.txt"] if dev else list(_RUNTIME)
    wanted = [f"{name} {_digest(ROOT / name)}" for name in files]
    if set(wanted) <= _installed():
        return
    VENV.parent.mkdir(parents=True, exist_ok=True)
    with alone(ROOT / ".setup-lock"):
        if set(wanted) <= _installed():
            return
        log = data_dir() / "logs" / "setup.log"
        _make_environment(log)
        with step("Install the Python packages (the first time: about a minute)"):
            requirements = [part for name in files for part in ("-r", str(ROOT / name))]
            python = VENV / "bin" / "python"
            run([python, "-m", "pip", "install", "--disable-pip-version-check", *requirements], log=log)
        kept = [line for line in _installed() if line.split()[0] not in files]
        _STAMP.write_text("\n".join(sorted([*kept, *wanted])))


def _make_environment(log: Path) -> None:
    if virtual_environment.complete(VENV):
        return
    if shutil.disk_usage(ROOT).free < _FREE_BYTES:
        raise UserError(
            f"Too little disk space in {ROOT}: the packages need {_FREE_BYTES // 10**6} MB."
            " Free some space and run the command again."
        )
    with step("Make the virtual environment"):
        virtual_environment.make(VENV, log=log)


def _installed() -> set[str]:
    try:
        return set(_STAMP.read_text().splitlines())
    except OSError:
        return set()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes() + repr(sys.version_info[:2]).encode()).hexdigest()[:16]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "script/setup", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dev", action="store_true", help="also what tests and checks need")
    options = parser.parse_args(arguments)
    ensure(dev=options.dev)
    _examine()
    print(f"Set up in {VENV}. Next: script/demo, or script/serve")


def _examine() -> None:
    """The doctor's report: complete while a script/serve runs, otherwise of what can be checked without
    one.
    """
    environment = dict(os.environ)
    known = running.addresses() or {}
    before_start = not (known or "DATABASE_URL" in environment)
    for key, value in known.items():
        environment.setdefault(key, value)
    # Before the first start there is no key yet; nothing is signed here.
    environment.setdefault("SECRET_KEY", secrets.token_urlsafe(48))
    command = [str(VENV / "bin" / "python"), str(ROOT / "manage.py"), "doctor"]
    print("\nWhat script/manage doctor says:", flush=True)
    subprocess.run([*command, *(["--before-start"] if before_start else [])], env=environment, check=False)
    print()
