"""Reading model files in the background: headers first, SHA-256 slowly and once."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from pathlib import Path
from typing import Any

from django.conf import settings

from comfyserve.db import connections
from comfyui import Client
from comfyui.bridge import Bridge

from . import headers
from .models import ModelFile

logger = logging.getLogger(__name__)

HEADERS_AT_ONCE = 100
CHUNK = 4 * 1024 * 1024  # bytes
NO_HASH = "-"  # stored if the file cannot be read from here


def read_some(host: str, client: Client, *, stop: threading.Event) -> None:
    """Reads unread headers, then computes one hash. Returns when nothing is left to do."""
    while not stop.is_set() and _read_headers(host, client, stop=stop):
        pass
    while not stop.is_set() and _hash_one(host, stop=stop):
        if _unread(host):
            return


# -- headers -------------------------------------------------------------------------------------------
def _unread(host: str) -> bool:
    with connections.step():
        return ModelFile.objects.filter(host_id=host, metadata__isnull=True).exists()


def _read_headers(host: str, client: Client, *, stop: threading.Event) -> bool:
    """Whether there may be more."""
    with connections.step():
        files = list(
            ModelFile.objects.filter(host_id=host, metadata__isnull=True).select_related("model")[
                :HEADERS_AT_ONCE
            ]
        )
    for file in files:
        if stop.is_set():
            return False
        metadata = _metadata(file, client)
        with connections.step():
            # Only if it is still the file that was read.
            same = ModelFile.objects.filter(pk=file.pk, size=file.size, changed=file.changed)
            same.update(metadata=metadata)
    return len(files) == HEADERS_AT_ONCE


def _metadata(file: ModelFile, client: Client) -> dict[str, Any]:
    """{} for formats without metadata in their header."""
    path = Path(file.path)
    if path.suffix.lower() not in (".safetensors", ".sft"):
        return {}
    try:
        if is_here(file):
            return headers.describe(headers.read(path))
        header = Bridge(client).header(folder=file.folder, name=file.model.name)
        return headers.describe(header) if header else {}
    except headers.Malformed as exc:
        return {"problem": f"The file is damaged: {exc}"}
    except OSError as exc:
        return {"problem": f"The file cannot be read: {exc.strerror}"}


def is_here(file: ModelFile) -> bool:
    """Whether we see the same file as its ComfyUI does: it may be on another machine."""
    try:
        stat = Path(file.path).stat()
    except OSError:
        return False
    return stat.st_size == file.size and abs(stat.st_mtime - file.changed) < 1.0


# -- hashes --------------------------------------------------------------------------------------------
def _hash_one(host: str, *, stop: threading.Event) -> bool:
    """Hash the next file, small ones first; whether there was one."""
    with connections.step():
        file = ModelFile.objects.filter(host_id=host, sha256="").order_by("size").defer("metadata").first()
    if file is None:
        return False
    digest = sha256(Path(file.path), stop=stop) if is_here(file) else NO_HASH
    if digest is None:
        return False
    with connections.step():
        ModelFile.objects.filter(pk=file.pk, size=file.size, changed=file.changed, sha256="").update(
            sha256=digest
        )
    return True


def sha256(path: Path, *, stop: threading.Event) -> str | None:
    """Read at MODEL_HASH_BYTES_PER_SECOND, so that ComfyUI's own reads take precedence. None: stopped."""
    digest = hashlib.sha256()
    started, done = time.monotonic(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                done += len(chunk)
                ahead = done / settings.MODEL_HASH_BYTES_PER_SECOND - (time.monotonic() - started)
                if stop.wait(max(0.0, ahead)):
                    return None
    except OSError as exc:
        logger.warning("%s is not hashed: %s", path, exc)
        return NO_HASH
    return digest.hexdigest()
