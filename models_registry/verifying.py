"""Verification of downloads: a model, complete, and the expected one."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from . import headers, kinds

WEB_PAGE = "The source answered with a web page instead of a model: it may need a token, or the URL is wrong"
CHUNK = 4 * 1024 * 1024  # bytes


class Unsound(Exception):
    """Verification failed; the text says why."""


class Stopped(Exception):
    """The worker is shutting down; the next one resumes the partial file."""


def check(path: Path, *, name: str, expected: str, stop: threading.Event) -> str:
    """Its SHA-256. Unsound if the content does not match its name, or the checksum `expected` if given."""
    _check_format(path, Path(name).suffix.lower())
    return check_sum(path, expected=expected, stop=stop)


def check_sum(path: Path, *, expected: str, stop: threading.Event) -> str:
    digest = sha256(path, stop=stop)
    if expected and digest != expected:
        raise Unsound(f"The file is not the expected one: its SHA-256 is {digest}, not {expected}")
    return digest


def _check_format(path: Path, suffix: str) -> None:
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise Unsound("The file is empty")
    if start.lstrip()[:1] == b"<":
        raise Unsound(WEB_PAGE)
    if suffix in (".safetensors", ".sft"):
        try:
            headers.read(path)
        except headers.Malformed as exc:
            raise Unsound(f"The file is invalid: {exc}") from exc
    elif suffix == ".gguf" and start[:4] != b"GGUF":
        raise Unsound("The file is invalid: it is not a GGUF file")
    elif suffix in kinds.PICKLES and not (start[:2] == b"PK" or start[:1] == b"\x80"):
        raise Unsound("The file is invalid: it is not a PyTorch file")


def sha256(path: Path, *, stop: threading.Event) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            if stop.is_set():
                raise Stopped
    return digest.hexdigest()
