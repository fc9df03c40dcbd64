"""Packages of npm, installed for the tests that run them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def install(package: str, folder: Path) -> Path:
    """A folder in which Node finds the package; skips the test without npm, or where npm gives none."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("needs npm and node")
    (folder / "package.json").write_text('{"type": "module"}')
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    done = subprocess.run(
        [npm, "install", *options, package], cwd=folder, capture_output=True, text=True, timeout=240
    )
    if done.returncode:
        pytest.skip(f"npm gives no {package}: {done.stderr[-300:]}")
    return folder
