"""Formats whose opening would decode the picture."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from PIL import Image, ImageFile

from files import pictures


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_formats_of_the_list_are_measured(tmp_path, kind):
    path = tmp_path / "picture"
    Image.new("RGB", (20, 10)).save(path, kind)
    assert pictures.size_of(path) == pictures.Size(20, 10)


def test_an_icon_with_a_picture_inside_is_not_opened(tmp_path, monkeypatch):
    inner = BytesIO()
    Image.new("1", (4000, 4000)).save(inner, "PNG")
    entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(inner.getvalue()), 22)
    path = tmp_path / "bomb.ico"
    path.write_bytes(struct.pack("<HHH", 0, 1, 1) + entry + inner.getvalue())
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("it was decoded"))
    assert pictures.size_of(path) is None
    assert not pictures.thumbnail(path, tmp_path / "thumbnail.webp", content_type="image/png")


def test_measuring_and_reading_texts_decodes_nothing(tmp_path, monkeypatch):
    """Some kilobytes of PNG are gigabytes of pixels."""
    path = tmp_path / "bomb.png"
    Image.new("1", (4000, 4000)).save(path, "PNG")
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("it was decoded"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("it was decoded"))
    assert pictures.size_of(path) == pictures.Size(4000, 4000)
    assert pictures.texts(path) == {}


def test_a_turned_png_is_measured_as_shown(tmp_path):
    path, exif = tmp_path / "turned.png", Image.Exif()
    exif[pictures.ORIENTATION] = 6
    Image.new("RGB", (20, 10)).save(path, "PNG", exif=exif)
    assert pictures.size_of(path) == pictures.Size(10, 20)
