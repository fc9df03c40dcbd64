"""The checks to run before a commit or a pull request. They take minutes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from script.local.paths import ROOT
from script.local.test import processes

HELP = """Check what can be checked without a ComfyUI: lint, format, types, import contracts, and the tests
that start no ComfyUI and no whole installation. Every check runs; the exit status is 1 if any of them
failed. script/test runs all tests."""

BIN = Path(sys.executable).parent
KEYED = os.environ | {"SECRET_KEY": "only-for-the-checks-which-start-nothing-that-listens"}
# The tests choose their own key. script/test lets the search for bad requests go on for longer.
OF_TESTS = {"FUZZ_SECONDS": "4"} | os.environ

QUICK = {
    "Lint": [str(BIN / "ruff"), "check", "."],
    "Format": [str(BIN / "ruff"), "format", "--check", "."],
    "Import contracts": [str(BIN / "lint-imports"), "--no-cache"],
}
TYPES = [str(BIN / "mypy")]  # uses one core while the tests spend much of their time waiting


def main(arguments: list[str]) -> int:
    if arguments:
        print(HELP)
        return 0 if {"-h", "--help"} & set(arguments) else 2
    began = time.monotonic()
    with ThreadPoolExecutor(1) as beside:
        types = beside.submit(_captured, TYPES)
        tests = [sys.executable, "-m", "pytest", "-q", "-m", "not comfyui", *processes(additional=3, most=6)]
        failed = [name for name, command in {**QUICK, "Tests": tests}.items() if not _run(name, command)]
        failed += [] if _show("Types", types.result()) else ["Types"]
    print("\nFailed: " + ", ".join(failed) if failed else "\nAll passed", end=" ")
    print(f"in {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


def _run(name: str, command: list[str]) -> bool:
    """Whether it passes; what it prints appears at once."""
    print(f"\n== {name}", flush=True)
    env = OF_TESTS if name == "Tests" else KEYED
    return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode == 0


def _captured(command: list[str]) -> subprocess.CompletedProcess[str]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command, cwd=ROOT, env=KEYED, check=False, text=True, **pipes)


def _show(name: str, done: subprocess.CompletedProcess[str]) -> bool:
    print(f"\n== {name}\n{done.stdout}", flush=True)
    return done.returncode == 0
