"""Sizes and thumbnails of pictures, videos and sounds match what a viewer displays."""

from __future__ import annotations

import io
import wave
from fractions import Fraction
from typing import Any

import av
import pillow_heif
import pytest
from PIL import Image

from script.harness.stack import Person
from tests.files.conftest import uploaded
from tests.pictures import pixel

RED, BLUE = (220, 30, 30), (30, 30, 220)


def two_colours(size: tuple[int, int] = (80, 40)) -> Image.Image:
    """Its left half is red, its right half blue."""
    picture = Image.new("RGB", size, RED)
    picture.paste(BLUE, (size[0] // 2, 0, *size))
    return picture


def encoded(picture: Image.Image, format_: str, **options) -> bytes:
    target = io.BytesIO()
    picture.save(target, format_, **options)
    return target.getvalue()


def described(alice: Person, content: bytes, name: str) -> dict[str, Any]:
    return alice.get(f"/files/{uploaded(alice, content, name)}/info").json()


def thumbnail(alice: Person, info: dict[str, Any]) -> Image.Image:
    answer = alice.get(f"/files/{info['file_id']}/thumbnail")
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content)).convert("RGBA")


def near(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return all(abs(a - b) < 40 for a, b in zip(found, wanted, strict=False))


def lying(format_: str) -> bytes:
    """Stored as 80 by 40, to be turned by 90 degrees: shown, red is above blue."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(two_colours(), format_, exif=exif)


@pytest.mark.parametrize("format_", ["JPEG", "WEBP", "PNG", "AVIF"])
def test_a_picture_that_is_to_be_turned(alice, format_):
    info = described(alice, lying(format_), f"a.{format_.lower()}")
    assert (info["width"], info["height"]) == (40, 80)
    small = thumbnail(alice, info)
    assert small.size == (40, 80)
    assert near(pixel(small, (20, 10)), RED)
    assert near(pixel(small, (20, 70)), BLUE)


def test_heic_as_phones_make_it(alice):
    target = io.BytesIO()
    pillow_heif.from_pillow(two_colours()).save(target, quality=90)
    info = described(alice, target.getvalue(), "IMG_0001.HEIC")
    assert (info["content_type"], info["width"], info["height"]) == ("image/heic", 80, 40)
    assert near(pixel(thumbnail(alice, info), (10, 10)), RED)


def test_sixteen_bits_of_grey_are_not_white(alice):
    grey = Image.new("I;16", (20, 20), 30_000)
    info = described(alice, encoded(grey, "PNG"), "a.png")
    assert near(pixel(thumbnail(alice, info), (5, 5)), (117, 117, 117))


def test_transparency_of_a_palette_stays(alice):
    picture = Image.new("P", (20, 20), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.paste(1, (10, 0, 20, 20))
    info = described(alice, encoded(picture, "PNG", transparency=0), "a.png")
    small = thumbnail(alice, info)
    assert pixel(small, (2, 10))[3] < 20
    assert near(pixel(small, (17, 10)), (0, 0, 255, 255))


@pytest.mark.parametrize(
    "format_, type_", [("PNG", "image/apng"), ("WEBP", "image/webp"), ("GIF", "image/gif")]
)
def test_an_animated_picture_is_shown_in_the_browser(alice, format_, type_):
    frames = [two_colours(), Image.new("RGB", (80, 40), BLUE)]
    content = encoded(frames[0], format_, save_all=True, append_images=frames[1:], duration=100)
    info = described(alice, content, f"a.{format_.lower()}")
    assert (info["content_type"], info["width"], info["height"]) == (type_, 80, 40)
    answer = alice.get(f"/files/{info['file_id']}")
    assert answer.headers["Content-Disposition"].startswith("inline")
    assert near(pixel(thumbnail(alice, info), (10, 10)), RED)


def video(*, rotation: int = 0, aspect: Fraction | None = None, format_: str = "mp4") -> bytes:
    """Two seconds of red beside blue, 80 by 40."""
    target = io.BytesIO()
    with av.open(target, "w", format=format_) as container:
        stream = container.add_stream("mpeg4" if format_ == "mp4" else "libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 80, 40, "yuv420p"
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_image(two_colours())))
        container.mux(stream.encode())
    content = target.getvalue()
    return turned(content) if rotation else content


def turned(content: bytes) -> bytes:
    """With the matrix of its track set to a quarter turn clockwise, as phones write it."""
    upright = b"".join(n.to_bytes(4, "big", signed=True) for n in (65536, 0, 0, 0, 65536, 0, 0, 0, 2**30))
    lying_ = b"".join(n.to_bytes(4, "big", signed=True) for n in (0, 65536, 0, -65536, 0, 0, 0, 0, 2**30))
    start = content.index(b"tkhd")
    at = content.index(upright, start)
    return content[:at] + lying_ + content[at + len(lying_) :]


@pytest.mark.parametrize("format_, type_", [("mp4", "video/mp4"), ("webm", "video/webm")])
def test_a_video_has_a_size_a_duration_and_a_picture(alice, format_, type_):
    info = described(alice, video(format_=format_), f"a.{format_}")
    assert (info["content_type"], info["width"], info["height"]) == (type_, 80, 40)
    assert info["duration_seconds"] == pytest.approx(2.0, abs=0.11)
    small = thumbnail(alice, info)
    assert small.size == (80, 40)
    assert near(pixel(small, (10, 20)), RED)
    assert near(pixel(small, (70, 20)), BLUE)


def test_a_video_that_is_to_be_turned(alice):
    info = described(alice, video(rotation=90), "a.mp4")
    assert (info["width"], info["height"]) == (40, 80)
    small = thumbnail(alice, info)
    assert near(pixel(small, (20, 10)), RED)
    assert near(pixel(small, (20, 70)), BLUE)


def test_a_video_whose_pixels_are_not_square(alice):
    info = described(alice, video(aspect=Fraction(2, 1)), "a.mp4")
    assert (info["width"], info["height"]) == (160, 40)


def test_a_sound_has_a_duration(alice):
    target = io.BytesIO()
    with wave.open(target, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(24_000))
    info = described(alice, target.getvalue(), "a.wav")
    assert (info["width"], info["duration_seconds"]) == (None, 1.5)


@pytest.mark.parametrize("cut", [100, 600, 1500])
def test_a_broken_video_is_a_file_like_any_other(alice, cut):
    info = described(alice, video()[:cut], "a.mp4")
    assert alice.get(f"/files/{info['file_id']}").status_code == 200
    assert alice.get(f"/files/{info['file_id']}/thumbnail").status_code == 404
