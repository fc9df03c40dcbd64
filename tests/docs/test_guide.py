"""docs/guide.md works as pasted, from top to bottom, and does what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from script.local.paths import ROOT
from tests.docs import pasted

GUIDE = ROOT / "docs" / "guide.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("guide")


def read(folder: Path, name: str):
    return json.loads((folder / name).read_text())


def test_the_guide_works_as_pasted(gpu_worker, folder):
    pasted.run("\n".join(pasted.blocks(GUIDE)), folder=folder, API=gpu_worker.url)
    assert read(folder, "result.json")["metadata"]["order"] == 17
    with Image.open(folder / "blue.png") as picture:
        assert picture.getpixel((0, 0)) == (0x33, 0x66, 0xCC)
    green = read(folder, "green.json")
    assert (green["status"], green["version"], len(green["named_outputs"])) == ("completed", 1, 1)
    inverted = read(folder, "inverted.json")
    assert inverted["status"] == "completed"
    mistakes = read(folder, "mistakes.json")
    assert mistakes["error"] == "validation_error"
    assert {detail["field"] for detail in mistakes["details"]} >= {"priority"}
    failed = read(folder, "failed.json")
    assert failed["status"] == "failed"
    assert failed["error_details"]["node_errors"]["1"]["errors"][0]["input"] == "width"
