"""Conversions for downloads, in threads: a few at once, and each only once in this process."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from comfyserve.api.errors import Unavailable
from comfyserve.db import connections

from . import converted as converted_files
from .conversion import ConversionOptions
from .models import ConvertedFile, File

THREADS = 4
MAX_CONVERSIONS = 32  # running or waiting, in this process

_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="convert")
_lock = threading.Lock()
_in_progress: dict[tuple[str, str], Future[ConvertedFile]] = {}


async def converted(file: File, wanted: ConversionOptions) -> ConvertedFile:
    """What `converted.of` returns, and raises; Unavailable too where it takes longer than a client waits.

    It goes on then: the next request finds it.
    """
    future = asyncio.wrap_future(_begin(file, wanted))
    try:
        return await asyncio.wait_for(asyncio.shield(future), converted_files.WAIT_SECONDS)
    except TimeoutError:
        raise Unavailable("The file is being converted; try again shortly", retry_after=10) from None


def _begin(file: File, wanted: ConversionOptions) -> Future[ConvertedFile]:
    name = (file.key, wanted.parameters)
    with _lock:
        if name in _in_progress:
            return _in_progress[name]
        if len(_in_progress) >= MAX_CONVERSIONS:
            raise Unavailable("Too many files are being converted; try again shortly", retry_after=10)
        future = _in_progress[name] = _pool.submit(_convert, file, wanted)
    future.add_done_callback(lambda _: _remove(name))
    return future


def _convert(file: File, wanted: ConversionOptions) -> ConvertedFile:
    with connections.step():
        return converted_files.of(file, wanted)


def _remove(name: tuple[str, str]) -> None:
    with _lock:
        _in_progress.pop(name, None)
