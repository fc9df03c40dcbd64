"""The size of a PNG is what a decoder would say, with and without one."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from files import decoding, pictures, plain_png


def saved(path: Path, *, mode: str = "RGB", rotated: bool = False, **texts: str) -> Path:
    about = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        about.add_text(name, text)
    exif = Image.Exif()
    if rotated:
        exif[pictures.ORIENTATION] = 6
    Image.new(mode, (20, 10)).save(path, "PNG", pnginfo=about, exif=exif)
    return path


PLAIN = {
    "without texts": {},
    "as ComfyUI saves it": {"prompt": "{}" * 5000, "workflow": "{}" * 9000},
    "with a short text": {"prompt": ""},
    "with transparency": {"mode": "RGBA", "prompt": "{}"},
}
OTHERS = {
    "rotated": {"rotated": True, "prompt": "{}"},
    "with another text": {"prompt": "{}", "parameters": "x"},
    "with more texts than ComfyUI writes": {"prompt": "{}", "workflow": "{}", "prompt2": "{}"},
    "with a palette": {"mode": "P"},
    "with 16 bits": {"mode": "I;16"},
}


@pytest.fixture
def without_decoders(monkeypatch):
    """A decoder would take too long."""
    monkeypatch.setattr(decoding, "MEASURE_SECONDS", 1e-6)


@pytest.mark.parametrize("form", PLAIN.values(), ids=PLAIN)
def test_a_plain_picture_needs_no_decoder(without_decoders, tmp_path, form):
    path = saved(tmp_path / "picture", **form)
    assert decoding.measure(path, "image/png") == decoding.Measures(20, 10, None)
    assert pictures.size_of(path) == pictures.Size(20, 10)


@pytest.mark.parametrize("form", OTHERS.values(), ids=OTHERS)
def test_the_size_of_any_other_picture_is_left_to_a_decoder(tmp_path, form):
    path = saved(tmp_path / "picture", **form)
    assert plain_png.size_of(path) is None
    found = decoding.measure(path, "image/png")
    size = pictures.size_of(path)
    assert found is not None
    assert size is not None
    assert (found.width, found.height) == (size.width, size.height)
    assert found.width == (10 if form.get("rotated") else 20)


def test_what_is_broken_has_no_size(tmp_path):
    whole = saved(tmp_path / "picture", prompt="{}" * 100).read_bytes()
    path = tmp_path / "broken"
    for content in (b"", whole[:20], whole[:33], whole[:45], flipped(whole, 18), b"x" * 100):
        path.write_bytes(content)
        assert plain_png.size_of(path) is None
        assert decoding.measure(path, "image/png") is None


@pytest.mark.parametrize("size", [(0, 10), (20, 0), (2**32 - 1, 0)])
def test_a_picture_without_pixels_has_no_size(tmp_path, size):
    whole = saved(tmp_path / "picture").read_bytes()
    header = b"IHDR" + struct.pack(">II", *size) + whole[24:29]
    path = tmp_path / "empty"
    path.write_bytes(whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:])
    assert plain_png.size_of(path) is None
    assert decoding.measure(path, "image/png") is None


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def test_texts_that_lead_back_are_not_followed(tmp_path):
    """A text that is shorter than its name, and very many texts."""
    start = saved(tmp_path / "picture").read_bytes()[:33]
    path = tmp_path / "many"
    for text in (b"", b"prompt\0", b"workflow\0" + b"x" * 50):
        kind = b"tEXt" + text
        chunk = struct.pack(">I", len(text)) + kind + struct.pack(">I", zlib.crc32(kind))
        path.write_bytes(start + chunk * 1000)
        assert plain_png.size_of(path) is None
