"""Pictures: their size from the header alone, and thumbnails of those that are not too large."""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

THUMBNAIL = 256  # pixels of the longer side
# A decoded picture takes four bytes a pixel. JPEG can be decoded at an eighth of its size.
DECODED_AT_MOST = 24_000_000  # pixels
DECODED_AT_MOST_JPEG = 200_000_000
Image.MAX_IMAGE_PIXELS = None  # judged here, since opening reads no more than the header
_one_at_a_time = threading.Lock()  # what is decoded is in memory
# Everything that a broken file makes Pillow raise.
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, TypeError, OverflowError, MemoryError)


@dataclass(frozen=True)
class Size:
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


def size_of(path: Path) -> Size | None:
    """As the header claims; None where it is no picture that can be read."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture:
            return Size(picture.width, picture.height)
    except _BROKEN:
        return None


def texts(content: bytes) -> dict[str, str] | None:
    """What is written into a picture besides its pixels, such as ComfyUI's `prompt` and `workflow`.

    None where it is no picture that can be read. PNG has texts with names; elsewhere they are "name:text" in
    EXIF.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(BytesIO(content)) as picture:
            found = {str(name): text for name, text in picture.info.items() if isinstance(text, str)}
            for text in picture.getexif().values():
                name, colon, rest = text.partition(":") if isinstance(text, str) else ("", "", "")
                if colon:
                    found.setdefault(name.lower(), rest)
            return found
    except _BROKEN:
        return None


def thumbnail(path: Path, target: Path) -> bool:
    """Write a WebP picture of at most 256 by 256 pixels. False where none can be made."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture:
            most = DECODED_AT_MOST_JPEG if picture.format == "JPEG" else DECODED_AT_MOST
            if picture.width * picture.height > most:
                return False
            with _one_at_a_time:
                _write(picture, target)
    except _BROKEN:
        return False
    return True


def _write(picture: Image.Image, target: Path) -> None:
    picture.draft("RGB", (THUMBNAIL * 2, THUMBNAIL * 2))  # JPEG only: decoded small
    if picture.width * picture.height > DECODED_AT_MOST:
        raise ValueError("too large even when decoded small")
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    turned = ImageOps.exif_transpose(picture)
    transparent = "A" in turned.getbands() or "transparency" in turned.info
    turned.convert("RGBA" if transparent else "RGB").save(target, "WEBP", quality=80, method=2)
