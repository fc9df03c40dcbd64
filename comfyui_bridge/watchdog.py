"""Restart ComfyUI when a workflow of ComfyServe hangs it.

ComfyUI stops a workflow only where a node checks for an interruption. A node that does not check keeps the
GPU forever, and one that never releases Python's interpreter lock silences the whole process. Two watches,
with limits that ComfyServe sends with each prompt:

- A prompt that still runs `stop_seconds` after it was interrupted, or after its time limit: this process
  replaces itself by a new one with the same arguments.
- No Python code ran for `silent_seconds`: nothing in Python can act any more, so faulthandler's thread, which
  is written in C, writes all stacks to stderr and ends the process. Its supervisor starts the next one.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management

TICK_SECONDS = 1.0


@dataclass(frozen=True)
class Limits:
    """Seconds: of the whole run, from an interruption to the end, and without any Python."""

    run_seconds: float
    stop_seconds: float
    silent_seconds: float


@dataclass
class _Run:
    prompt_id: str
    limits: Limits
    began: float  # monotonic, like the next
    interrupted: float | None = None

    def hangs(self, now: float) -> bool:
        stop_by = self.began + self.limits.run_seconds
        if self.interrupted is not None:
            stop_by = min(stop_by, self.interrupted)
        return now > stop_by + self.limits.stop_seconds


_run: _Run | None = None
_silent_seconds = 0.0  # 0: not watched yet
_lock = threading.Lock()
_interrupt = comfy.model_management.interrupt_current_processing


def limits_of(extra: dict[str, Any]) -> Limits | None:
    """From `extra_data.comfyserve`; None where it has none. ValueError if malformed."""
    raw = extra.get("limits")
    if raw is None:
        return None
    try:
        return Limits(**{name: float(raw[name]) for name in Limits.__dataclass_fields__})
    except (KeyError, TypeError) as error:
        raise ValueError("extra_data.comfyserve.limits is malformed") from error


def watch_silence(limits: Limits | None) -> None:
    """From the first prompt of ComfyServe on, also while it is validated."""
    global _silent_seconds
    if limits is None:
        return
    with _lock:
        first, _silent_seconds = not _silent_seconds, limits.silent_seconds
    if first:
        comfy.model_management.interrupt_current_processing = _note_interrupt
        threading.Thread(target=_watch, name="comfyserve-watchdog", daemon=True).start()


@contextmanager
def watched(prompt_id: str, limits: Limits | None) -> Iterator[None]:
    global _run
    watch_silence(limits)
    _run = _Run(prompt_id, limits, time.monotonic()) if limits else None
    try:
        yield
    finally:
        _run = None


def _note_interrupt(value: bool = True) -> None:
    run = _run
    if run is not None:
        # ComfyUI itself clears the interruption when it starts a prompt.
        run.interrupted = (run.interrupted or time.monotonic()) if value else None
    _interrupt(value)


def _watch() -> None:
    while True:
        # Each call replaces the previous timer. sys.stderr may be a wrapper without a file descriptor.
        faulthandler.dump_traceback_later(_silent_seconds, exit=True, file=sys.__stderr__ or 2)
        run = _run
        if run is not None and run.hangs(time.monotonic()):
            _restart(run)
        time.sleep(min(TICK_SECONDS, _silent_seconds / 4))


def _restart(run: _Run) -> None:
    logging.error("ComfyServe: prompt %s does not stop; restarting ComfyUI", run.prompt_id)
    faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
    arguments = [sys.executable, *sys.orig_argv[1:]]
    _close_on_exec()
    try:
        os.execv(sys.executable, arguments)  # noqa: S606  (the pid stays: a supervisor notices nothing)
    except OSError:
        logging.exception("ComfyServe: ComfyUI could not restart itself and exits")
        os._exit(1)


def _close_on_exec() -> None:
    """Nothing stays open but the standard streams: devices and sockets that C libraries opened hold memory
    and addresses."""
    opened = Path("/proc/self/fd")
    for number in [int(path.name) for path in opened.iterdir()] if opened.is_dir() else ():
        try:
            if number > 2:
                os.set_inheritable(number, False)
        except OSError:
            continue  # closed meanwhile
