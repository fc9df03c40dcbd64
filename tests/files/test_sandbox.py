"""Conversion in a process with limits, isolated from ours."""

from __future__ import annotations

import os
import subprocess

import pytest

from files import sandbox
from files.conversion import ConversionOptions
from files.conversion_errors import CannotConvert

from .conftest import picture


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(picture(size=(2000, 1500)))
    return path


def test_it_says_what_it_made(source, tmp_path):
    made = sandbox.convert(source, tmp_path / "target", ConversionOptions("webp", max_size=200), "image/png")
    assert made == sandbox.Made("image/webp", 200, 150, None)
    assert (tmp_path / "target").read_bytes()[8:12] == b"WEBP"


def test_a_process_that_takes_too_long_is_killed(source, tmp_path, settings):
    settings.CONVERSION_SECONDS = 0.0
    with pytest.raises(CannotConvert, match="longer than 0 seconds"):
        sandbox.convert(source, tmp_path / "target", ConversionOptions("avif"), "image/png")


def test_a_process_that_takes_too_much_memory_is_killed(source, tmp_path, settings):
    settings.CONVERSION_MEMORY_BYTES = 64 * 1024 * 1024
    with pytest.raises(CannotConvert):
        sandbox.convert(source, tmp_path / "target", ConversionOptions("webp"), "image/png")


def test_a_process_whose_output_grows_too_large_is_killed(source, tmp_path, settings):
    settings.MAX_UPLOAD_BYTES = 100
    with pytest.raises(CannotConvert):
        sandbox.convert(source, tmp_path / "target", ConversionOptions("webp"), "image/png")


def test_an_abandoned_conversion_is_stopped(source, tmp_path, settings, monkeypatch):
    monkeypatch.setattr(sandbox, "LOOK_SECONDS", 0.001)
    with pytest.raises(sandbox.Abandoned):
        sandbox.convert(
            source, tmp_path / "target", ConversionOptions("webp"), "image/png", alive=lambda: False
        )


def test_the_process_has_none_of_our_secrets(source, tmp_path, monkeypatch):
    seen = {}
    start = subprocess.Popen

    def started(*args, **kwargs):
        seen.update(kwargs["env"])
        return start(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", started)
    sandbox.convert(source, tmp_path / "target", ConversionOptions("webp"), "image/png")
    assert os.environ["SECRET_KEY"] not in seen.values()
    assert set(seen) <= {*sandbox.INHERITED, "PYTHONPATH"}
