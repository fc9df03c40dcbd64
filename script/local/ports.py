"""Free ports on the loopback interface."""

from __future__ import annotations

import random
import socket
import sys

from script.local.console import UserError

# Below the ephemeral port range, so that no outgoing connection takes our port between finding and using it.
_RANGE = range(18_000, 32_000)
_taken: set[int] = set()  # allocated by this process and perhaps not bound yet
_NAME = "\0comfyserve-port-{}"  # of an abstract Unix socket, which other processes on this network see too


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(*, prefer: int | None = None) -> int:
    """A port nothing listens on: `prefer` if that one is free.

    Otherwise never one that this process or another that still runs was given before, since that may not be
    bound yet, or be bound again after a restart.
    """
    if prefer is not None and prefer not in _taken and is_free(prefer):
        _taken.add(prefer)
        return prefer
    chance = random.SystemRandom()
    for _ in range(200):
        port = chance.choice(_RANGE)
        if port not in _taken and is_free(port) and _reserve(port):
            _taken.add(port)
            return port
    raise UserError("No free port was found between 18000 and 32000.")


def is_reserved(port: int) -> bool:
    """Whether a process that still runs was given it by `free_port`, though it may not be bound."""
    claim = _claim(port)
    if claim is not None:
        claim.close()
    return claim is None


def _reserve(port: int) -> bool:
    """Claim the port among all processes, for as long as this one lives. False if another has claimed it."""
    claim = _claim(port)
    if claim is not None:
        claim.detach()  # open until the process ends
    return claim is not None


def _claim(port: int) -> socket.socket | None:
    """A socket whose name claims the port until it is closed; None if another process has that name.

    Only Linux has names that end with their process; elsewhere nothing is claimed.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if sys.platform == "linux":
            claim.bind(_NAME.format(port))
    except OSError:
        claim.close()
        return None
    return claim


def demand(port: int, host: str, name: str) -> int:
    """`port`, or a UserError that says which setting to change."""
    if not is_free(port, host):
        raise UserError(f"Port {port} is taken. Choose another with {name}=… or stop what listens there.")
    _taken.add(port)
    return port


def answers(host: str, port: int, *, timeout: float = 0.5) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=timeout).close()
    except OSError:
        return False
    return True
