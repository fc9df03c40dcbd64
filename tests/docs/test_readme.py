"""The README's conversation works as pasted."""

from __future__ import annotations

import json
import os
import re
import subprocess

from script.local.paths import ROOT


def test_the_conversation_of_the_readme(gpu_worker):
    readme = (ROOT / "README.md").read_text()
    [conversation] = [
        block for block in re.findall(r"```bash\n(.*?)```", readme, re.DOTALL) if "curl" in block
    ]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", conversation],
        env=os.environ | {"API": gpu_worker.url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout[done.stdout.rindex('{"execution_id"') :])
    assert result["status"] == "completed"
    assert result["outputs"]["images"][0]["width"] == 512
