"""The commands of docs/integrations.md run as pasted, and its Python with the packages that it names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from script.harness import graphs
from script.local.paths import ROOT
from tests.docs import pasted

PAGE = ROOT / "docs" / "integrations.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("integrations")


def test_its_commands_and_scripts_run(gpu_worker: Any, folder: Path):
    shell = "\n".join([*pasted.blocks(PAGE), 'printf %s "$KEY" > key'])
    pasted.run(shell, folder=folder, API=gpu_worker.url)
    key = (folder / "key").read_text()
    (folder / "workflow_api.json").write_text(json.dumps(graphs.colour(0x3366CC)))
    env = {
        **os.environ, "OPENAI_BASE_URL": f"{gpu_worker.url}/v1", "OPENAI_API_KEY": key,
        "COMFY_BASE_URL": gpu_worker.url, "COMFY_API_KEY": key,
    }  # fmt: skip
    with_openai, with_comfy_sdk, *_ = pasted.blocks(PAGE, "python")
    said = [
        subprocess.run(
            [sys.executable, "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=120
        )
        for script in (with_openai, with_comfy_sdk)
    ]
    for done in said:
        assert done.returncode == 0, done.stderr
    assert said[0].stdout.splitlines()[-1] == "image_generation.completed"
    assert Image.open(folder / "lake.png").convert("RGB").getpixel((0, 0)) == (0, 255, 0)
    [made] = folder.glob("colour*.png")
    assert Image.open(made).convert("RGB").getpixel((0, 0)) == (0x33, 0x66, 0xCC)
