"""The size of a PNG as ComfyUI saves it, from its header: most outputs are such, and need no decoder for it.

Only of pictures with 8 bits per channel and with nothing before their pixels but ComfyUI's own texts. What
else may be there, such as EXIF that rotates the picture, is for a decoder to read.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

_START = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"
_START_BYTES = 33  # with the content of IHDR and its checksum
_FORMS = (b"\x08\x02\0\0\0", b"\x08\x06\0\0\0")  # RGB and RGBA with 8 bits, not interlaced
_TEXTS = (b"prompt\0", b"workflow\0")
_LONGEST_TEXT_NAME = 9  # bytes, with the zero


def size_of(content: bytes | Path) -> tuple[int, int] | None:
    """(width, height); None if it is not such a picture. Reads three chunk headers at most."""
    with BytesIO(content) if isinstance(content, bytes) else content.open("rb") as stream:
        start = stream.read(_START_BYTES)
        if not start.startswith(_START) or start[24:29] not in _FORMS or not _is_intact(start):
            return None
        for _ in range(len(_TEXTS) + 1):
            head = stream.read(8 + _LONGEST_TEXT_NAME)
            if len(head) < 8 + _LONGEST_TEXT_NAME:
                return None
            size, kind = struct.unpack_from(">I4s", head)
            if kind == b"IDAT":
                width, height = struct.unpack_from(">II", start, 16)
                return (width, height) if width and height else None
            if kind != b"tEXt" or not head[8:].startswith(_TEXTS):
                return None
            stream.seek(size + 4 - _LONGEST_TEXT_NAME, 1)
    return None


def _is_intact(start: bytes) -> bool:
    return zlib.crc32(start[12:29]).to_bytes(4, "big") == start[29:]
