"""script/run and script/comfyui; that the image's other processes run is tested in tests/deploy."""

from __future__ import annotations

from pathlib import Path

from script.local import comfyui_install
from tests.local import commands


def test_flower_requires_a_password(tmp_path: Path) -> None:
    done = commands.run("run", "flower", data=tmp_path, SECRET_KEY="x" * 50)
    assert done.returncode == 1
    assert "FLOWER_BASIC_AUTH" in done.stderr


def test_comfyui_loads_our_bridge_and_the_custom_nodes_that_lie_there(tmp_path: Path) -> None:
    comfyui_install.install(comfyui_install.default_folder())
    nodes = tmp_path / "comfyui" / "custom_nodes"
    nodes.mkdir(parents=True)
    (nodes / "theirs.py").write_text("print('theirs was loaded')\nNODE_CLASS_MAPPINGS = {}\n")
    done = commands.run("comfyui", "--quick-test-for-ci", data=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "theirs was loaded" in done.stdout
    assert "comfyui_bridge" in done.stdout + done.stderr
    assert "(IMPORT FAILED)" not in done.stdout + done.stderr  # what it says of custom nodes
