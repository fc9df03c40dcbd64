"""Metrics of this process and its machine."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from django.conf import settings

STARTED_AT = psutil.Process().create_time()
psutil.cpu_percent()  # the first call has no reference and returns 0


def uptime_seconds() -> float:
    return round(max(0.0, time.time() - STARTED_AT), 1)


def host_figures() -> dict[str, float]:
    """Percent; of the CPU since the last call, of the disk that DATA_DIR is on."""
    disk = shutil.disk_usage(existing(settings.DATA_DIR))
    return {
        "cpu_usage_percent": psutil.cpu_percent(),
        "memory_usage_percent": psutil.virtual_memory().percent,
        "disk_usage_percent": round(100 * disk.used / disk.total, 1),
    }


def existing(path: Path) -> Path:
    """The folder itself, or the nearest above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def gpu_usage(gpus: Sequence[dict[str, Any]]) -> float | None:
    """Mean over all GPUs of the fleet; null if there is none, or none reports."""
    usages = [gpu["usage_percent"] for gpu in gpus if gpu["usage_percent"] is not None]
    return round(sum(usages) / len(usages), 1) if usages else None


def gpu_memory_usage(gpus: Sequence[dict[str, Any]]) -> float | None:
    reporting = [gpu for gpu in gpus if gpu["memory_total"]]
    if not reporting:
        return None
    used: int = sum(gpu["memory_used"] for gpu in reporting)
    total: int = sum(gpu["memory_total"] for gpu in reporting)
    return round(100 * used / total, 1)
