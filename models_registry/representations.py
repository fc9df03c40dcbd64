"""API representations of models."""

from __future__ import annotations

from typing import Any

from .models import Download, Host, Model
from .queries import ACTIVE, Entry, Listing, progress_of
from .reading import NO_HASH

MB = 1_000_000
NO_BRIDGE = "Which models are in memory is not known for workers whose ComfyUI lacks ComfyServe's bridge: "


def megabytes(size: int) -> float:
    return round(size / MB, 3)


def listing(found: Listing) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "models": [_summary(entry) for entry in found.entries],
        "total_memory_usage_mb": megabytes(sum(host.used_bytes for host in found.hosts)),
        "available_memory_mb": megabytes(sum(host.free_bytes for host in found.hosts)),
    }
    note = _without_bridge(found.hosts)
    return shown | ({"note": note} if note else {})


def _without_bridge(hosts: list[Host]) -> str | None:
    names = [host.name for host in hosts if not host.bridge]
    return NO_BRIDGE + ", ".join(names) if names else None


def _summary(entry: Entry) -> dict[str, Any]:
    loaded = entry.loaded_bytes
    return {
        "name": entry.name,
        "type": entry.type,
        "is_loaded": loaded > 0,
        "is_downloading": bool(entry.downloads),
        "download_progress": entry.download_progress,
        "last_used": entry.last_used,
        "memory_usage_mb": megabytes(loaded) if loaded else None,
    }


def status(entry: Entry) -> dict[str, Any]:
    """File fields are those of the first worker that has it; `workers` has one entry for each."""
    first = entry.files[0] if entry.files else {}
    return _summary(entry) | {
        "file_size_mb": megabytes(first["size"]) if first else None,
        "file_path": first.get("path"),
        "hash": _hash(first),
        "metadata": first.get("metadata") or {},
        "description": entry.description or None,
        "is_available": entry.is_available,
        "workers": [_on_worker(file) for file in entry.files],
    }


def _hash(file: dict[str, Any]) -> str | None:
    known = file.get("sha256")
    return known if known and known != NO_HASH else None


def _on_worker(file: dict[str, Any]) -> dict[str, Any]:
    loaded = file["loaded_bytes"] if file["live"] else 0
    return {
        "worker": file["host_id"],
        "is_alive": file["live"],
        "is_loaded": loaded > 0,
        "memory_usage_mb": megabytes(loaded) if loaded else None,
        "ram_usage_mb": megabytes(file["ram_bytes"]) if file["live"] and file["ram_bytes"] else None,
        "file_path": file["path"],
        "file_size_mb": megabytes(file["size"]),
        "hash": _hash(file),
    }


def progress(model: Model, downloads: list[Download], *, is_available: bool) -> dict[str, Any]:
    """`downloads`: the latest of each worker."""
    active = [download for download in downloads if download.state in ACTIVE]
    shown: dict[str, Any] = {
        "model_name": model.name,
        "is_downloading": bool(active),
        "download_progress": min(map(progress_of, active), default=None),
        "is_available": is_available,
    }
    if downloads:
        least = min(active or downloads, key=progress_of)
        shown |= {
            "status": least.state,
            "bytes_done": least.bytes_done,
            "bytes_total": least.bytes_total,
            "error": least.error or None,
        }
    return shown
