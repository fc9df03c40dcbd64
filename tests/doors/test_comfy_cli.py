"""PyPI's `comfy-cli`, unmodified, against ComfyUI's routes: it sends no key, so Caddy adds one before us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from script.harness import graphs
from tests.doors.caddy import ADDS_KEY, caddy

pytestmark = pytest.mark.timeout(400)  # the first test installs the client

CLI = "comfy-cli==1.23.0"


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command, in an environment of its own."""
    folder = tmp_path_factory.mktemp("comfy-cli")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    done = subprocess.run(
        [folder / "bin" / "pip", "install", "--quiet", "--only-binary", ":all:", CLI],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"PyPI gives no {CLI}: {done.stderr[-300:]}")
    return folder / "bin" / "comfy"


@dataclass(frozen=True)
class Cli:
    command: Path
    port: int
    folder: Path

    def __call__(self, *arguments: str | Path) -> Any:
        """The `data` of the answer to `comfy --json …`."""
        env = {
            **os.environ, "HOME": str(self.folder), "DO_NOT_TRACK": "1",
            "COMFY_LOCAL_URL": f"http://127.0.0.1:{self.port}",
        }  # fmt: skip
        done = subprocess.run(
            [self.command, "--json", "--skip-prompt", "--where", "local", *arguments],
            capture_output=True, text=True, timeout=120, cwd=self.folder, env=env,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        answer = json.loads(done.stdout)
        assert answer["ok"], answer
        return answer["data"]


@pytest.fixture
def cli(gpu_worker: Any, comfy: Path, tmp_path: Path) -> Iterator[Cli]:
    key = gpu_worker.person().post("/auth/keys", {"name": "cli", "scope": "comfyui"}).json()["key"]
    with caddy(ADDS_KEY, folder=tmp_path, key=key, server=f"127.0.0.1:{gpu_worker.port}") as port:
        yield Cli(comfy, port, tmp_path)


def test_comfy_cli_runs_with_where_local(cli: Cli, tmp_path: Path):
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "red.png")
    uploaded = cli("upload", tmp_path / "red.png")
    assert uploaded, uploaded
    (tmp_path / "workflow.json").write_text(json.dumps(graphs.colour(0x00FF00)))
    made = cli("run", "--workflow", "workflow.json", "--wait", "--timeout", "60")
    prompt_id = made["prompt_id"]
    assert cli("jobs", "status", prompt_id)["status"] == "completed"
    assert prompt_id in json.dumps(cli("jobs", "ls"))
    cli("download", prompt_id, "--out-dir", tmp_path / "made")
    [picture] = [path for path in (tmp_path / "made").rglob("*") if path.is_file()]
    assert Image.open(picture).convert("RGB").getpixel((0, 0)) == (0, 255, 0)
