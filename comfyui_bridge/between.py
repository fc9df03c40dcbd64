"""Run jobs in ComfyUI's worker thread between two prompts.

Models may be changed only there: it is where ComfyUI itself frees memory. Only the worker reads its queue's
flags, after every prompt and whenever a flag is set; jobs run when it does.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any

from server import PromptServer

_lock = threading.Lock()
_jobs: dict[Any, tuple[concurrent.futures.Future[Any], Callable[[], Any]]] = {}
_installed = False


def do(key: Any, work: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    """Run `work` as soon as no prompt runs. A waiting job with the same key is joined, not duplicated."""
    with _lock:
        _install()
        if key in _jobs:
            return _jobs[key][0]
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        _jobs[key] = (future, work)
    PromptServer.instance.prompt_queue.set_flag("comfyserve", True)  # wakes the worker
    return future


def _install() -> None:
    global _installed
    if _installed:
        return
    queue = PromptServer.instance.prompt_queue
    get_flags = queue.get_flags

    def get_flags_after_jobs(reset: bool = True) -> Any:
        if reset:
            _do_jobs()
        return get_flags(reset)

    queue.get_flags = get_flags_after_jobs
    _installed = True


def _do_jobs() -> None:
    while True:
        with _lock:
            if not _jobs:
                return
            future, work = _jobs.pop(next(iter(_jobs)))
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  (reported to the caller; the worker must continue)
            future.set_exception(error)
