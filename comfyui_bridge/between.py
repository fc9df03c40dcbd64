"""Run jobs in ComfyUI's worker thread between two prompts.

Models may be changed only there: it is where ComfyUI itself frees memory. Only the worker reads its queue's
flags, after every prompt and whenever a flag is set while it waits; jobs run when it does. A flag that is set
between the two, as while it collects garbage, would be left for up to 1,000 s: so it does not begin to wait
while there is one.
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
    get, get_flags = queue.get, queue.get_flags

    def get_unless_flagged(timeout: float | None = None) -> Any:
        with queue.mutex:  # reentrant, and released while it waits
            return None if queue.flags else get(timeout)

    def get_flags_and_do_jobs(reset: bool = True) -> Any:
        found = get_flags(reset)  # first: the flag of a job that comes later must stay
        if reset:
            _do_jobs()
        return found

    queue.get, queue.get_flags = get_unless_flagged, get_flags_and_do_jobs
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
