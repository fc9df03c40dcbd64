"""Runs the commands of a documentation page as a reader would paste them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path


def blocks(page: Path, language: str = "bash") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def run(script: str, *, folder: Path, **variables: str) -> str:
    """What it prints. AssertionError at the first command that fails."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return done.stdout
