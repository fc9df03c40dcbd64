"""Conversion in a process of its own, with limits, which contain a damaged or hostile file.

The process knows no secret and no database; it gets two paths, and its memory, time, files and output are
limited: by the kernel and for one conversion, which a process that is used again (`decoding`) cannot have.
See `conversion_process` for its inside.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from django.conf import settings

from .conversion import ConversionOptions
from .conversion_errors import CannotConvert

LOOK_SECONDS = 0.25  # between checks whether it is still wanted
ANSWER_BYTES = 64 * 1024
AT_ONCE = 2  # in this process
INHERITED = ("PATH", "LD_LIBRARY_PATH", "LANG", "TZ")  # of the environment

_free = threading.BoundedSemaphore(AT_ONCE)


class Abandoned(Exception):
    """It was stopped: the result is no longer wanted, or this process is shutting down."""


@dataclass(frozen=True)
class Made:
    """The process's report on the file it wrote."""

    content_type: str
    width: int | None
    height: int | None
    duration_seconds: float | None


def convert(
    source: Path,
    target: Path,
    wanted: ConversionOptions,
    content_type: str,
    *,
    alive: Callable[[], bool] | None = None,
) -> Made:
    """Write what is wanted to `target`. `alive` is polled meanwhile; False stops it.

    Raises CannotConvert, also where it takes too much time or memory, and Abandoned.
    """
    request = {
        "source": str(source), "target": str(target), "wanted": asdict(wanted), "content_type": content_type,
        "seconds": settings.CONVERSION_SECONDS, "memory": settings.CONVERSION_MEMORY_BYTES,
        "bytes": settings.MAX_UPLOAD_BYTES,
    }  # fmt: skip
    _acquire(alive)
    try:
        answer = _run(json.dumps(request).encode(), alive)
    finally:
        _free.release()
    if "error" in answer:
        raise CannotConvert(str(answer["error"]))
    return Made(**answer)


def _acquire(alive: Callable[[], bool] | None) -> None:
    while not _free.acquire(timeout=LOOK_SECONDS):
        _check(alive)


def _check(alive: Callable[[], bool] | None) -> None:
    # At exit the interpreter joins threads: none may delay it for as long as a video takes.
    if not threading.main_thread().is_alive() or (alive is not None and not alive()):
        raise Abandoned


def _run(request: bytes, alive: Callable[[], bool] | None) -> dict[str, Any]:
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    with subprocess.Popen(
        [sys.executable, "-m", "files.conversion_process"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**environment, "PYTHONPATH": str(settings.BASE_DIR)},
    ) as process:  # fmt: skip
        try:
            return _answer(process, request, alive)
        finally:
            process.kill()


def _answer(
    process: subprocess.Popen[bytes], request: bytes, alive: Callable[[], bool] | None
) -> dict[str, Any]:
    ends = time.monotonic() + settings.CONVERSION_SECONDS
    sent: bytes | None = request
    while True:
        try:
            left = max(0.0, ends - time.monotonic())
            out, _ = process.communicate(sent, timeout=min(LOOK_SECONDS, left))
            break
        except subprocess.TimeoutExpired:
            sent = None  # `communicate` continues with the input of its first call
            _check(alive)
            if time.monotonic() >= ends:
                raise CannotConvert(
                    f"The conversion takes longer than {settings.CONVERSION_SECONDS:g} seconds"
                ) from None
    if process.returncode != 0 or len(out) > ANSWER_BYTES:
        raise CannotConvert("The conversion takes too much memory or time, or the file is damaged")
    found: dict[str, Any] = json.loads(out)
    return found
