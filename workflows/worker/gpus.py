"""The GPUs of this host as reported by NVIDIA's driver, for the worker's heartbeat."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import pynvml

logger = logging.getLogger(__name__)


def figures() -> list[dict[str, Any]]:
    """One entry per GPU: `uuid`, `name`, `index`, `usage_percent`, `memory_used` and `memory_total` (bytes),
    `temperature_celsius`. Values that a device does not report are None; without NVIDIA's driver: [].
    """
    if not _has_driver():
        return []
    try:
        return [_of(pynvml.nvmlDeviceGetHandleByIndex(i), i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as exc:
        logger.warning("no figures of GPUs: %s", exc)
        return []


@lru_cache(maxsize=1)
def _has_driver() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as exc:
        logger.info("no NVIDIA GPU here: %s", exc)
        return False
    return True


def _of(handle: Any, index: int) -> dict[str, Any]:
    memory = _query(pynvml.nvmlDeviceGetMemoryInfo, handle)
    rates = _query(pynvml.nvmlDeviceGetUtilizationRates, handle)
    return {
        "index": index,
        "uuid": _query(pynvml.nvmlDeviceGetUUID, handle),
        "name": _query(pynvml.nvmlDeviceGetName, handle),
        "usage_percent": float(rates.gpu) if rates else None,
        "memory_used": int(memory.used) if memory else None,
        "memory_total": int(memory.total) if memory else None,
        "temperature_celsius": _query(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
    }


def _query(ask: Any, *arguments: Any) -> Any:
    """The driver's answer; None if this device does not have that value."""
    try:
        return ask(*arguments)
    except pynvml.NVMLError:
        return None
