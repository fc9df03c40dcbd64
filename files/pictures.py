"""Picture sizes as displayed, read from the header, and thumbnails of those not too large.

Runs in processes with limits only (`decoder`, `conversion_process`); the rest of the code asks `decoding`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pillow_heif
from PIL import Image, ImageOps, PngImagePlugin

from . import videos

pillow_heif.register_heif_opener()

THUMBNAIL = 256  # pixels of the longer side
# A decoded picture takes four bytes a pixel. JPEG can be decoded at an eighth of its size.
MAX_DECODED_PIXELS = 24_000_000  # pixels
MAX_JPEG_PIXELS = 200_000_000
MAX_CONVERTED_PIXELS = 64_000_000  # pixels of a picture to convert; phones take up to 50 million
ORIENTATION = 0x0112  # the EXIF tag
ROTATED = (5, 6, 7, 8)  # its values for a picture rotated by 90 degrees
Image.MAX_IMAGE_PIXELS = None  # sizes are checked here, since opening reads no more than the header
# Opening these reads a header and decodes nothing. Others (.ico, .icns, .psd, ...) decode a picture within
# them when they are opened, before its size can be judged.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
# Everything that Pillow raises for broken files.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, TypeError, OverflowError, MemoryError)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The picture, without Pillow's warnings. Raises one of BROKEN if it is none of FORMATS."""
    with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as picture:
        yield picture


@dataclass(frozen=True)
class Size:
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


def size_of(path: Path) -> Size | None:
    """As the header claims, after EXIF rotation; None if it is not a readable picture."""
    try:
        with opened(path) as picture:
            return Size(*(picture.size[::-1] if _is_rotated(picture) else picture.size))
    except BROKEN:
        return None


def texts(path: Path) -> dict[str, str] | None:
    """Metadata of a picture, such as ComfyUI's `prompt` and `workflow`.

    None if it is not a readable picture. PNG has named texts; other formats have "name:text" in EXIF.
    """
    try:
        with opened(path) as picture:
            found = {str(name): text for name, text in picture.info.items() if isinstance(text, str)}
            for text in exif_of(picture).values():
                name, colon, rest = text.partition(":") if isinstance(text, str) else ("", "", "")
                if colon:
                    found.setdefault(name.lower(), rest)
            return found
    except BROKEN:
        return None


def exif_of(picture: Image.Image) -> Image.Exif:
    """The EXIF in the header. Pillow's own method of a PNG without EXIF decodes all of it, to look behind
    its pixels."""
    return Image.Image.getexif(picture)


def _is_rotated(picture: Image.Image) -> bool:
    """Whether EXIF rotates it by 90 degrees. False if only the header is readable."""
    try:
        return exif_of(picture).get(ORIENTATION) in ROTATED
    except BROKEN:
        return False


def as_png(path: Path, target: Path) -> bool:
    """Write the picture upright as a PNG, for programs that do not read its format. False on failure."""
    try:
        with opened(path) as picture:
            if picture.width * picture.height > MAX_CONVERTED_PIXELS:
                return False
            ImageOps.exif_transpose(picture).save(target, "PNG", compress_level=1)
    except BROKEN:
        return False
    return True


def deep_as_png(path: Path, target: Path) -> bool:
    """Write a picture with one channel of more than 8 bits as a PNG with 8. False if it has no such channel,
    or cannot be read.
    """
    try:
        with opened(path) as picture:
            if picture.mode[:1] not in ("I", "F") or picture.width * picture.height > MAX_CONVERTED_PIXELS:
                return False
            flat = in_eight_bits(picture)
            if flat is picture:
                return False
            ImageOps.exif_transpose(flat).save(target, "PNG", compress_level=1)
    except BROKEN:
        return False
    return True


def with_alpha_of(path: Path, mask: Path, target: Path) -> bool:
    """Write the picture, upright, as a PNG with the transparency of `mask` and the texts it had as a PNG.

    False if one cannot be read, or their sizes differ.
    """
    try:
        with opened(path) as picture, opened(mask) as other:
            if any(each.width * each.height > MAX_CONVERTED_PIXELS for each in (picture, other)):
                return False
            texts = PngImagePlugin.PngInfo()
            for name, text in getattr(picture, "text", {}).items():
                texts.add_text(name, text)
            made = ImageOps.exif_transpose(in_eight_bits(picture)).convert("RGBA")
            made.putalpha(other.convert("RGBA").getchannel("A"))
            made.save(target, "PNG", compress_level=4, pnginfo=texts)
    except BROKEN:
        return False
    return True


def thumbnail(path: Path, target: Path, *, content_type: str) -> bool:
    """Write a WebP picture of at most 256 by 256 pixels. False if it cannot be made."""
    if content_type.startswith("video/"):
        return _poster(path, target, content_type)
    try:
        with opened(path) as picture:
            most = MAX_JPEG_PIXELS if picture.format == "JPEG" else MAX_DECODED_PIXELS
            if picture.width * picture.height > most:
                return False
            _write(picture, target)
    except BROKEN:
        return False
    return True


def _write(picture: Image.Image, target: Path) -> None:
    picture.draft("RGB", (THUMBNAIL * 2, THUMBNAIL * 2))  # JPEG only: decoded at a smaller scale
    if picture.width * picture.height > MAX_DECODED_PIXELS:
        raise ValueError("too large even when decoded small")
    picture = in_eight_bits(picture)
    if picture.mode in ("P", "1"):  # scaled by colour, not by palette index
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    turned = ImageOps.exif_transpose(picture)
    transparent = "A" in turned.getbands() or "a" in turned.getbands() or "transparency" in turned.info
    turned.convert("RGBA" if transparent else "RGB").save(target, "WEBP", quality=80, method=2)


def _poster(path: Path, target: Path, content_type: str) -> bool:
    frame = videos.frame(path, content_type)
    if frame is None:
        return False
    _write(frame, target)
    return True


def in_eight_bits(picture: Image.Image) -> Image.Image:
    """Of one channel with 16 bits, or of floats from 0 to 1: Pillow would cut off all that is above 255."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and _brightest(picture) > 255):
        return picture.convert("I").point(lambda value: value / 256).convert("L")
    if picture.mode == "F" and _brightest(picture) <= 1.0:
        return picture.point(lambda value: value * 255).convert("L")
    return picture


def _brightest(picture: Image.Image) -> float:
    extrema: Any = picture.getextrema()
    return float(extrema[1])
