"""Metadata that ComfyUI writes into files of each kind is found and removed; the rest stays bit by bit."""

from __future__ import annotations

import json
import struct
from io import BytesIO
from pathlib import Path

import av
import pytest
from PIL import Image, PngImagePlugin

from files import conversion, types
from files.conversion import ConversionOptions
from files.conversion_errors import CannotConvert

SECRET = b"SecretNode"
TEXT = '{"1": {"class_type": "SecretNode"}}'


def stripped(content: bytes, folder: Path) -> bytes:
    source, target = folder / "source", folder / "target"
    source.write_bytes(content)
    content_type = types.of_content(content)
    assert conversion.convert(source, target, ConversionOptions(strip=True), content_type) == content_type
    return target.read_bytes()


def saved(kind: str, **options) -> bytes:
    stream = BytesIO()
    Image.effect_noise((40, 30), 50).convert("RGB").save(stream, kind, **options)
    return stream.getvalue()


def png() -> bytes:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("prompt", TEXT)
    texts.add_text("zipped", TEXT, zip=True)
    texts.add_itxt("workflow", TEXT)
    return saved("PNG", pnginfo=texts)


def exif() -> Image.Exif:
    found = Image.Exif()
    found[0x0110] = f"prompt:{TEXT}"
    return found


def gif() -> bytes:
    frames = [Image.new("P", (20, 20), i) for i in range(3)]
    stream = BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], comment=TEXT.encode(), loop=0)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        png(),
        saved("WEBP", exif=exif(), xmp=TEXT.encode()),
        saved("WEBP", exif=exif(), lossless=True),
        saved("JPEG", exif=exif(), comment=TEXT),
        saved("JPEG", exif=exif(), progressive=True),
        gif(),
    ],
    ids=["png", "webp", "webp-lossless", "jpeg", "jpeg-progressive", "gif"],
)
def test_pictures_lose_it_and_keep_their_pixels(content, tmp_path):
    found = stripped(content, tmp_path)
    assert SECRET in content
    assert SECRET not in found
    before, after = Image.open(BytesIO(content)), Image.open(BytesIO(found))
    assert (before.format, before.size, before.mode) == (after.format, after.size, after.mode)
    assert getattr(before, "n_frames", 1) == getattr(after, "n_frames", 1)
    assert before.info.get("loop") == after.info.get("loop")
    assert before.tobytes() == after.tobytes()


def sound(kind: str, codec: str) -> bytes:
    stream = BytesIO()
    with av.open(stream, "w", format=kind) as made:
        made.metadata["prompt"] = made.metadata["comment"] = TEXT
        track = made.add_stream(codec, rate=44100)
        assert isinstance(track, av.AudioStream)
        samples = av.AudioFrame(format=track.format.name, layout="stereo", samples=1024)
        samples.sample_rate = 44100
        for plane in samples.planes:
            plane.update(bytes(plane.buffer_size))
        made.mux(track.encode(samples))
        made.mux(track.encode(None))
    return stream.getvalue()


@pytest.mark.parametrize("kind, codec", [("flac", "flac"), ("wav", "pcm_s16le")])
def test_sounds_lose_it(kind, codec, tmp_path):
    content = sound(kind, codec)
    found = stripped(content, tmp_path)
    assert SECRET in content
    assert SECRET not in found
    assert types.of_content(found) == types.of_content(content)


def test_a_3d_model_loses_it(tmp_path):
    scene = json.dumps({"asset": {"version": "2.0", "extras": {"prompt": TEXT}}, "meshes": []}).encode()
    scene += b" " * (-len(scene) % 4)
    body = struct.pack("<II", len(scene), 0x4E4F534A) + scene + struct.pack("<II", 4, 0x004E4942) + b"mesh"
    found = stripped(struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body, tmp_path)
    assert SECRET not in found
    assert found.endswith(b"mesh")
    assert struct.unpack("<I", found[8:12])[0] == len(found)
    size = struct.unpack("<I", found[12:16])[0]
    assert json.loads(found[20 : 20 + size]) == {"asset": {"version": "2.0"}, "meshes": []}


def test_a_latent_loses_it(tmp_path):
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"__metadata__": {"prompt": TEXT}, "latent_tensor": tensor}).encode()
    found = stripped(len(header).to_bytes(8, "little") + header + b"data", tmp_path)
    assert SECRET not in found
    size = int.from_bytes(found[:8], "little")
    assert json.loads(found[8 : 8 + size]) == {"latent_tensor": tensor}
    assert found[8 + size :] == b"data"


@pytest.mark.parametrize("content", [png()[:-20], saved("WEBP", exif=exif())[:-200], gif()[:-30]])
def test_truncation_is_reported(content, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(content)
    with pytest.raises(CannotConvert):
        conversion.convert(
            source, tmp_path / "target", ConversionOptions(strip=True), types.of_content(content)
        )
