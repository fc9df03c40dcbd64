"""The Dockerfile, as far as it can be checked without a container engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from script.local.paths import ROOT

DOCKERFILE = ROOT / "Dockerfile"
LINES = DOCKERFILE.read_text().replace("\\\n", " ").splitlines()


def in_the_context() -> list[str]:
    """What .dockerignore lets through, at the top level."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line.removeprefix("!") for line in lines if line.startswith("!")]


def test_the_linter_has_nothing_to_say():
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "--no-color", DOCKERFILE], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_everything_that_is_copied_is_there():
    lines = [line for line in LINES if line.startswith("COPY ") and "--from" not in line]
    copied = [source for line in lines for source in line.split()[1:-1]]
    assert len(copied) >= 6
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source == "." or source.split("/")[0] in in_the_context(), f"{source} is in .dockerignore"


def test_no_process_runs_as_root():
    stages = re.split(r"^FROM ", "\n".join(LINES), flags=re.MULTILINE)[1:]
    for stage in stages:
        if "\nCMD " in stage:
            user = re.search(r"^USER (\d+)$", stage, re.MULTILINE)
            assert user, stage.splitlines()[0]
            assert int(user[1]) > 0
            assert stage.index("\nUSER ") < stage.index("\nCMD ")


def test_the_image_is_made_from_what_the_context_holds_and_without_a_secret(tmp_path: Path):
    for name in in_the_context():
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    [line] = [line for line in LINES if line.startswith("RUN ") and "collectstatic" in line]
    command = line.removeprefix("RUN ").split("&&")[0]
    static = tmp_path / "static"
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=tmp_path,
        env={"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "STATIC_ROOT": str(static)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list(static.rglob("*.css.gz"))
