"""Runs our commands as a user would, and checks what they leave behind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil

from script.local.paths import ROOT
from script.local.processes import Process

# What the tests' own services have put into the environment; a person's shell has none of it.
_OURS = (
    "ALLOWED_HOSTS", "DATABASE_URL", "REDIS_URL", "SECRET_KEY", "COMFYUI_URL", "DJANGO_SETTINGS_MODULE",
    "RATE_LIMITS",
)  # fmt: skip


def environment(data: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in _OURS}
    return kept | {"DATA_DIR": str(data)} | more


def prepared(command: str, data: Path, **more: str) -> Process:
    """`script/COMMAND` to be started in the background."""
    log = data.parent / f"{command}.log"
    return Process(command, [ROOT / "script" / command], log=log, env=environment(data, **more))


def run(
    command: str, *arguments: str, data: Path, seconds: float = 120, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "script" / command, *arguments],
        env=environment(data, **more), capture_output=True, text=True, timeout=seconds,
    )  # fmt: skip


def processes_of(data: Path) -> list[str]:
    """Every process that has this DATA_DIR in its command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            text = " ".join(process.cmdline())
            if str(data) in text or process.environ().get("DATA_DIR") == str(data):
                found.append(text)
        except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            continue
    return found
