from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from script.local.paths import ROOT


def test_a_python_without_venv_gets_installation_instructions(tmp_path: Path) -> None:
    clone, lacking = tmp_path / "clone", tmp_path / "lacking"
    shutil.copytree(ROOT / "script", clone / "script", symlinks=True)
    for requirements in ROOT.glob("requirements*"):
        shutil.copy(requirements, clone)
    lacking.mkdir()
    (lacking / "ensurepip.py").write_text("raise ImportError")  # as Debian's, without python3-venv
    done = subprocess.run(
        [clone / "script" / "demo"],
        env=os.environ | {"PYTHONPATH": str(lacking)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "has no venv module" in done.stderr
    assert "-venv" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (clone / ".venv").exists()
