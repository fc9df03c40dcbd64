"""PNGs that claim any size."""

from __future__ import annotations

import struct
import zlib


def claiming(width: int, height: int, *, pixels: bytes = b"") -> bytes:
    """A PNG whose header has this size. `pixels`: the content of its IDAT chunk, compressed."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
