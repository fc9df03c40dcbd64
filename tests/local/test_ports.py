"""Ports that are given to a process which has not bound them yet."""

from __future__ import annotations

import subprocess
import sys

import pytest

from script.local import ports
from script.local.console import UserError
from script.local.paths import ROOT

OTHER_PROCESS = """
from script.local import ports
ports._RANGE = range({0}, {0} + 1)
print(ports.free_port())
"""


def of_another_process(port: int) -> subprocess.CompletedProcess[str]:
    """What another process is given where only this port may be chosen."""
    return subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS.format(port)], cwd=ROOT, capture_output=True, text=True
    )


def test_no_two_processes_are_given_the_same_port() -> None:
    port = ports.free_port()
    assert ports.is_free(port)
    refused = of_another_process(port)
    assert refused.returncode == 1
    assert "No free port was found" in refused.stderr


def test_a_port_of_a_process_that_has_ended_is_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    only = next(port for port in ports._RANGE if port not in ports._taken and ports.is_free(port))
    assert of_another_process(only).stdout.strip() == str(only)
    monkeypatch.setattr(ports, "_RANGE", range(only, only + 1))
    assert ports.free_port() == only
    with pytest.raises(UserError):
        ports.free_port()
