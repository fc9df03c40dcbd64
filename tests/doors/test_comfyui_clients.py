"""Software that was written for a ComfyUI, run as it is against ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_for

# The address and, since the tests' ComfyUI has tiny models on a CPU, the model, the size and the steps.
REPLACED = (
    ("v1-5-pruned-emaonly.safetensors", "tiny-sd15.safetensors"),
    (": 512", ": 64"),
    ('"steps": 20', '"steps": 2'),
)


@pytest.mark.parametrize("name", ["basic_api_example.py", "websockets_api_example.py"])
def test_comfyuis_own_examples_run(gpu_worker: Any, comfyui: Any, tmp_path: Path, name: str):
    person = gpu_worker.person()
    key = person.post("/auth/keys", {"name": name, "scope": "comfyui"}).json()["key"]
    [source] = Path(comfyui.install).rglob(f"script_examples/{name}")
    text = source.read_text().replace("127.0.0.1:8188", f"127.0.0.1:{gpu_worker.port}/c/{key}")
    for old, new in REPLACED:
        assert old in text
        text = text.replace(old, new)
    script = tmp_path / name
    script.write_text(text)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    [entry] = wait_for(
        lambda: list(person.get("/comfyui/history").json().values()), seconds=30, what="the end of the prompt"
    )
    assert entry["status"]["status_str"] == "success"
    assert entry["outputs"]["9"]["images"]
