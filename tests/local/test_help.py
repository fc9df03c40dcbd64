from __future__ import annotations

from pathlib import Path

import pytest

from script.local.__main__ import COMMANDS
from tests.local import commands


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    done = commands.run(command, "--help", data=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 100
    assert list(tmp_path.iterdir()) == []  # and does nothing else
