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
ports._RANGE = {0}
print(ports.free_port())
"""


def of_another_process(choice: range) -> subprocess.CompletedProcess[str]:
    """What another process is given of these ports."""
    return subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS.format(choice)], cwd=ROOT, capture_output=True, text=True
    )


def test_no_two_processes_are_given_the_same_port() -> None:
    port = ports.free_port()
    assert ports.is_free(port)
    assert ports.is_reserved(port)
    refused = of_another_process(range(port, port + 1))
    assert refused.returncode == 1
    assert "No free port was found" in refused.stderr


def test_a_port_of_a_process_that_has_ended_is_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(of_another_process(ports._RANGE).stdout)
    assert not ports.is_reserved(port)
    monkeypatch.setattr(ports, "_RANGE", range(port, port + 1))
    assert ports.free_port() == port
    with pytest.raises(UserError):
        ports.free_port()
