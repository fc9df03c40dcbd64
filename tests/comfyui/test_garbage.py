"""The bridge has ComfyUI's garbage collector skip what was loaded at the start."""

from __future__ import annotations

import pytest


@pytest.mark.comfyui
@pytest.mark.parametrize("target", ["real"], indirect=True)
def test_most_objects_are_skipped(run):
    [(_, text)] = run({"1": {"class_type": "TestGarbage", "inputs": {}}}).texts
    looked_through, skipped = map(int, text.split())
    assert skipped > looked_through
