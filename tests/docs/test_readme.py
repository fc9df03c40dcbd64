"""The README's example works as pasted."""

from __future__ import annotations

import json
from pathlib import Path

from script.local.paths import ROOT
from tests.docs import pasted


def test_the_conversation_of_the_readme(gpu_worker, tmp_path: Path):
    [conversation] = [block for block in pasted.blocks(ROOT / "README.md") if "curl" in block]
    said = pasted.run(conversation, folder=tmp_path, API=gpu_worker.url)
    result = json.loads(said[said.rindex('{"execution_id"') :])
    assert result["status"] == "completed"
    assert result["outputs"]["images"][0]["width"] == 512
