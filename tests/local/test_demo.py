from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.local import commands

pytestmark = pytest.mark.timeout(400)


def test_it_ends_with_a_picture_and_leaves_nothing_running(folder: Path) -> None:
    data = folder / "var"
    done = commands.run("demo", "--seed", "7", data=data, seconds=360)
    assert done.returncode == 0, done.stdout + done.stderr
    (picture,) = (data / "pictures").iterdir()
    assert str(picture) in done.stdout
    with Image.open(picture) as image:
        assert image.size == (768, 512)
        colours = image.convert("RGB").getcolors(maxcolors=768 * 512)
    assert colours is not None
    assert len(colours) > 1_000  # not a plain one
    assert commands.processes_of(data) == []
