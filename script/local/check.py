"""All checks that take minutes, to run before a commit or a pull request."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from script.local.paths import ROOT
from script.local.test import processes

HELP = """Check what can be checked without a ComfyUI: lint, format, types, import contracts, migrations, and
the tests that start no ComfyUI and no whole installation. Every check runs; the exit status is 1 if any
of them failed. script/test runs all tests."""

BIN = Path(sys.executable).parent
SECRET_KEY = "only-for-the-checks-which-start-nothing-that-listens"


def main(arguments: list[str]) -> int:
    if arguments:
        print(HELP)
        return 0 if {"-h", "--help"} & set(arguments) else 2
    python = str(BIN / "python")
    checks = {
        "Lint": [str(BIN / "ruff"), "check", "."],
        "Format": [str(BIN / "ruff"), "format", "--check", "."],
        "Types": [str(BIN / "mypy")],
        "Import contracts": [str(BIN / "lint-imports"), "--no-cache"],
        "Migrations are complete": [python, "manage.py", "makemigrations", "--check", "--dry-run"],
        "Tests": [python, "-m", "pytest", "-q", "-m", "not comfyui", *processes()],
    }
    failed = [name for name, command in checks.items() if not _passes(name, command)]
    print("\nFailed: " + ", ".join(failed) if failed else "\nAll passed")
    return 1 if failed else 0


def _passes(name: str, command: list[str]) -> bool:
    print(f"\n== {name}", flush=True)
    began = time.monotonic()
    # The tests choose their own key.
    extra = {} if name == "Tests" else {"SECRET_KEY": SECRET_KEY}
    passed = subprocess.run(command, cwd=ROOT, env=os.environ | extra, check=False).returncode == 0
    print(f"{'passed' if passed else 'FAILED'} in {time.monotonic() - began:.0f} s", flush=True)
    return passed
