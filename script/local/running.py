"""How other commands find a running script/serve: its URLs, and whether it runs at all.

They are in `DATA_DIR/run/environment.json`, readable only by us; the lock beside it is held while it runs.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import IO

from script.local.console import UserError
from script.local.paths import data_dir, write_private

PUBLISHED = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "DATA_DIR", "COMFYUI_URL", "PORT")


def folder() -> Path:
    return data_dir() / "run"


def addresses() -> dict[str, str] | None:
    """The environment of the running services; None if none run."""
    lock = _try_lock()
    if lock is not None:
        lock.close()
        return None
    try:
        found: dict[str, str] = json.loads((folder() / "environment.json").read_text())
    except (OSError, ValueError):
        return None  # it is still starting
    return found


def take() -> IO[str]:
    """Acquire the lock of DATA_DIR, until the returned file is closed. UserError if another process holds
    it."""
    lock = _try_lock()
    if lock is None:
        raise UserError(
            f"ComfyServe already runs in {data_dir()} (or starts or stops): a script/serve or script/demo.\n"
            "Wait for it or stop it, or choose another folder with DATA_DIR=…"
        )
    (folder() / "environment.json").unlink(missing_ok=True)
    return lock


def publish(environment: dict[str, str]) -> None:
    write_private(folder() / "environment.json", json.dumps(environment, indent=1))


def borrow_addresses() -> None:
    """Add the running services' URLs to our environment, unless it sets its own."""
    if "DATABASE_URL" in os.environ and "SECRET_KEY" in os.environ:
        return
    found = addresses()
    if found is None:
        if "SECRET_KEY" in os.environ:
            return
        raise UserError(
            f"Nothing runs in {data_dir()}. Start script/serve first,"
            " or give DATABASE_URL, REDIS_URL and SECRET_KEY."
        )
    for key, value in found.items():
        os.environ.setdefault(key, value)


def _try_lock() -> IO[str] | None:
    folder().mkdir(parents=True, exist_ok=True)
    file = (folder() / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
