"""Processes that exit when their parent does, even on SIGKILL."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int, with_signal: signal.Signals) -> None:
    """Ask the kernel to send this process `with_signal` when `parent` dies. For use just before exec."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(with_signal))
    if os.getppid() != parent:  # it died in between
        os._exit(1)
