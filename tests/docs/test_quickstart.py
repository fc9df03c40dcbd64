"""The commands of docs/quickstart.md before the first start."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from script.local.paths import ROOT
from tests.deploy import compose
from tests.docs import pasted


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl is installed")
def test_its_first_step_makes_all_secrets_and_each_another(tmp_path: Path):
    page = (ROOT / "docs" / "quickstart.md").read_text()
    [step] = re.findall(r"^ *```sh\n( *cp \.env\.example.*?)^ *```", page, re.DOTALL | re.MULTILINE)
    shutil.copy(compose.EXAMPLE, tmp_path)
    pasted.run(step, folder=tmp_path)
    filled = dict(re.findall(r"^([A-Z0-9_]+)=(.+)$", (tmp_path / ".env").read_text(), re.MULTILINE))
    compose.services(filled)  # complains if one is missing
    secrets = [value for name, value in filled.items() if name.endswith(("_KEY", "_PASSWORD"))]
    assert len(secrets) == len(set(secrets)) == 5
    assert all(len(secret) == 64 for secret in secrets)
