from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder for one module's services.

    Not pytest's own: every run of pytest closes that to other accounts, also while another run's PostgreSQL,
    which under root has an account of its own, works inside it.
    """
    folder = Path(tempfile.mkdtemp(prefix="comfyserve-local-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
