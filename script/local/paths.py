"""Paths. `DATA_DIR` belongs to one installation; the cache is shared by all clones of one user."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"


def data_dir() -> Path:
    """`DATA_DIR` of the environment, else `var` in the clone. Absolute; not created here."""
    return Path(os.environ.get("DATA_DIR") or ROOT / "var").expanduser().resolve()


def cache_dir() -> Path:
    """`$XDG_CACHE_HOME/comfyserve`, by default `~/.cache/comfyserve`: outlives a clone."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "comfyserve"


def write_private(path: Path, text: str) -> None:
    """Write a file that only we can read, creating its folder if needed; replaces an existing one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
