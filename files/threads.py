"""Threads for short reads and writes of bytes, so that none of them blocks the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from asgiref.sync import sync_to_async

from comfyserve.db import connections

T = TypeVar("T")
_pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="files")


async def in_thread(do: Callable[..., T], *args: object) -> T:
    """One read or write. No database access."""
    return await asyncio.get_running_loop().run_in_executor(_pool, do, *args)


def submit(do: Callable[[], None]) -> None:
    """Like `in_thread`, without waiting for it."""
    _pool.submit(do)


async def in_request_thread(do: Callable[..., T], *args: object, **options: object) -> T:
    """A step with database access, in the request's own thread; its connection is returned."""

    def step() -> T:
        try:
            return do(*args, **options)
        finally:
            connections.release()

    return await sync_to_async(step)()
