from __future__ import annotations

import os
from pathlib import Path

import pytest

from script.harness.waiting import wait_for
from script.local.console import UserError
from script.local.processes import Process
from script.local.services import Services


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A pipe: `cat` ends once it has been opened for writing."""
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


def test_a_process_that_ends_between_two_looks_at_it_may_be_ready(gate: Path) -> None:
    process = Process("cat", ["cat", gate], log=gate.with_name("log")).start()
    looks = 0

    def succeeded() -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:
            gate.write_text("")
            wait_for(lambda: not process.alive, seconds=20)
            return False  # as it was before
        return process.code == 0

    process.wait_until(succeeded, seconds=20)
    assert looks == 2


def test_a_process_that_ends_without_being_ready_is_reported(tmp_path: Path) -> None:
    process = Process("false", ["false"], log=tmp_path / "log").start()
    with pytest.raises(UserError, match="ended"):
        process.wait_until(lambda: process.code == 0, seconds=20)


def test_collecting_static_files_is_not_stopped_after_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process group may be somebody else's by then."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))  # STATIC_ROOT may be elsewhere
    services = Services(host="127.0.0.1", port=1)
    services._collecting = Process("true", ["true"], log=tmp_path / "log").start()
    services._await_static_files()
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, _: killed.append(group))
    services.stop()
    assert killed == []
