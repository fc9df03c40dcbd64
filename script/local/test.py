"""Run the tests in the virtual environment."""

from __future__ import annotations

import os
import sys

from script.local.paths import ROOT

HELP = """Run the tests. Arguments go to pytest:

  script/test                       all of them, in several processes at once
  script/test tests/workflows -x    some, until the first that fails

PostgreSQL, Valkey and a real ComfyUI on the CPU start by themselves, for each process its own. ComfyUI is
installed on first use into COMFYUI_DIR, by default ~/.cache/comfyserve/comfyui (1.4 GB), which all clones
share. TEST_DATABASE_URL and TEST_REDIS_URL name servers to use instead of ours."""

MAX_PROCESSES = 4  # each has servers of its own; with a ComfyUI some 2 GB


def main(arguments: list[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *(arguments or processes())])


def processes(*, additional: int = 0, most: int = MAX_PROCESSES) -> list[str]:
    """pytest's options for a process per core and some `additional` ones, which use a core while others wait,
    but at `most` so many; only without servers named in the environment.

    Tests of one file stay together: they share what is expensive to start.
    """
    if os.environ.get("TEST_DATABASE_URL") or os.environ.get("TEST_REDIS_URL"):
        return []
    count = min((os.cpu_count() or 1) + additional, most)
    return ["-n", str(count), "--dist", "loadfile"]
