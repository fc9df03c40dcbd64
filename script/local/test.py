"""Run the tests in the virtual environment."""

from __future__ import annotations

import os
import sys

from script.local.paths import ROOT

HELP = """Run the tests. Arguments go to pytest:

  script/test                       all of them
  script/test tests/workflows -x    some, until the first that fails

PostgreSQL, Valkey and a real ComfyUI on the CPU start by themselves. ComfyUI is installed on first use into
COMFYUI_DIR, by default ~/.cache/comfyserve/comfyui (1.4 GB), which all clones share. TEST_DATABASE_URL and
TEST_REDIS_URL name servers to use instead of ours."""


def main(arguments: list[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *arguments])
