"""Users' pictures and videos, examined in processes of limited time and memory (`decoder`).

What kills a decoder (a bomb, a bug in a codec) raises `Undecodable` for that file; the next request gets a
new process. Processes start with the first request, are used again, and end with ours: every upload and
output is measured, which takes milliseconds, while starting Python with its libraries takes half a second.
The size of a PNG of the plainest form is read here: see `plain_png`.
Conversions, which may take minutes, have a process of their own each: see `sandbox`.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings

from . import plain_png
from .errors import StorageUnavailable

logger = logging.getLogger(__name__)

USES = 500  # per process, which is then replaced, in case a library leaks memory
WAIT_SECONDS = 60.0  # longest wait for a free process
MEASURE_SECONDS, DECODE_SECONDS, CONVERT_SECONDS = 10.0, 20.0, 60.0
GRACE = 5.0  # seconds after which a process that should have ended itself is killed


class Undecodable(Exception):
    """The file cannot be decoded within the limits. The message is for its user."""

    def __init__(self) -> None:
        super().__init__("The file cannot be decoded: it is damaged, or takes too much memory or time")


class Busy(StorageUnavailable):
    """All decoders were in use for WAIT_SECONDS."""

    def __init__(self) -> None:
        super().__init__("Too many files are being examined; try again later")


@dataclass(frozen=True)
class Measures:
    """As displayed; `duration` in seconds."""

    width: int | None
    height: int | None
    duration: float | None

    @property
    def pixels(self) -> int:
        return (self.width or 0) * (self.height or 0)


# -- operations ------------------------------------------------------------------------------------------
def measure(content: bytes | Path, content_type: str) -> Measures | None:
    """Of bytes or a file; None if they are no readable picture, video or sound. Raises Undecodable and Busy,
    like the others.
    """
    if not content_type.startswith(("image/", "video/", "audio/")):
        return None
    if content_type == "image/png" and (size := plain_png.size_of(content)):
        return Measures(*size, duration=None)
    with _file(content) if isinstance(content, bytes) else nullcontext(content) as path:
        found = _measuring.call("measure", MEASURE_SECONDS, path=str(path), content_type=content_type)
    return Measures(**found) if found else None


def texts(content: bytes) -> dict[str, str] | None:
    """Metadata of a picture: see `pictures.texts`."""
    with _file(content) as path:
        found: dict[str, str] | None = _measuring.call("texts", MEASURE_SECONDS, path=str(path))
        return found


def as_png(path: Path, target: Path) -> bool:
    return bool(_decoding.call("as_png", CONVERT_SECONDS, path=str(path), target=str(target)))


def deep_as_png(path: Path, target: Path) -> bool:
    """With 8 bits, if it has more in one channel: see `pictures.deep_as_png`."""
    return bool(_decoding.call("deep_as_png", CONVERT_SECONDS, path=str(path), target=str(target)))


def with_alpha_of(path: Path, mask: Path, target: Path) -> bool:
    """One picture with the transparency of another: see `pictures.with_alpha_of`."""
    given = {"path": str(path), "mask": str(mask), "target": str(target)}
    return bool(_decoding.call("with_alpha_of", CONVERT_SECONDS, **given))


def thumbnail(path: Path, target: Path, *, content_type: str) -> bool:
    given = {"path": str(path), "target": str(target), "content_type": content_type}
    return bool(_decoding.call("thumbnail", DECODE_SECONDS, **given))


@contextmanager
def _file(content: bytes) -> Iterator[Path]:
    """Raises StorageUnavailable if the local disk is full or broken."""
    with ExitStack() as closing:
        try:
            settings.INCOMING_DIR.mkdir(parents=True, exist_ok=True)
            file = closing.enter_context(tempfile.NamedTemporaryFile(dir=settings.INCOMING_DIR, buffering=0))
            view = memoryview(content)
            while view:
                view = view[file.write(view) :]
        except OSError as exc:
            raise StorageUnavailable from exc
        yield Path(file.name)


# -- processes -------------------------------------------------------------------------------------------
class _Process:
    def __init__(self) -> None:
        self.uses = 0
        # The parent may use many threads: nothing of Python runs between fork and exec.
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "files.decoder", str(settings.DECODER_MEMORY_BYTES)],
            cwd=settings.BASE_DIR,
            env={"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._requests: Any = self._popen.stdin
        self._results: Any = self._popen.stdout

    def call(self, request: dict[str, Any], *, seconds: float) -> Any:
        """Raises Undecodable when the process does not survive it."""
        self.uses += 1
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
            poll = select.poll()
            poll.register(self._results, select.POLLIN)
            answer = self._results.readline() if poll.poll((seconds + GRACE) * 1000) else b""
            return json.loads(answer)["result"]
        except (OSError, ValueError) as exc:
            self.end()
            logger.warning("a decoder ended (%s) over %s", self._popen.returncode, request["do"])
            raise Undecodable from exc

    @property
    def usable(self) -> bool:
        return self.uses < USES and self._popen.poll() is None

    def end(self) -> None:
        self._popen.kill()
        for pipe in (self._requests, self._results):
            with suppress(OSError):
                pipe.close()
        self._popen.wait(GRACE)


class _Pool:
    """At most `size` processes; `call` waits for a free one."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._fill()
        os.register_at_fork(after_in_child=self._fill)  # pipes are our parent's

    def _fill(self) -> None:
        self._free: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(self._size):
            self._free.put(None)

    def call(self, do: str, seconds: float, **arguments: Any) -> Any:
        free = self._free
        try:
            process = free.get(timeout=WAIT_SECONDS)
        except queue.Empty:
            raise Busy from None
        try:
            if process is None or not process.usable:
                if process is not None:
                    process.end()
                process = _Process()
            return process.call({"do": do, "seconds": seconds, **arguments}, seconds=seconds)
        finally:
            free.put(process)


# A slow decoding must not delay an upload that waits to be measured.
_measuring = _Pool(2)
_decoding = _Pool(1)
