"""Removing metadata without decoding: the bytes of the picture itself stay as they are.

ComfyUI writes the prompt and the workflow into what it saves: text chunks of PNG, EXIF of WebP, the asset of
GLB, the header of safetensors. Video and sound are in `video_conversion`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO

CHUNK_BYTES = 1024 * 1024
MAX_HEADER = 64 * 1024 * 1024  # bytes of JSON in the header of a GLB or safetensors file
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_METADATA = {b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME"}
WEBP_METADATA = {b"EXIF", b"XMP "}
WEBP_EXIF_FLAG, WEBP_XMP_FLAG = 0x08, 0x04
JPEG_METADATA = {0xE1, 0xED, 0xFE}  # APP1 (EXIF, XMP), APP13 (IPTC), comments
JPEG_SCAN = 0xDA
GLB_JSON = 0x4E4F534A


class Malformed(ValueError):
    """The file does not match its type."""


def strip_png(source: IO[bytes], target: IO[bytes]) -> None:
    """Animated ones included."""
    if source.read(8) != PNG_SIGNATURE:
        raise Malformed("not a PNG")
    target.write(PNG_SIGNATURE)
    while head := source.read(8):
        size, kind = struct.unpack(">I4s", _whole(head, 8))
        if kind in PNG_METADATA:
            source.seek(size + 4, 1)
        else:
            target.write(head)
            _copy(source, target, size + 4)
        if kind == b"IEND":
            return
    raise Malformed("the PNG has no end")


def strip_webp(source: IO[bytes], target: IO[bytes]) -> None:
    """Animated ones included."""
    head = _whole(source.read(12), 12)
    if head[:4] != b"RIFF" or head[8:] != b"WEBP":
        raise Malformed("not a WebP")
    left = int.from_bytes(head[4:8], "little") - 4
    target.write(head)
    written = 4
    while left >= 8:
        kind, size = struct.unpack("<4sI", _whole(source.read(8), 8))
        padded = size + size % 2
        left -= 8 + padded
        if kind in WEBP_METADATA:
            source.seek(padded, 1)
            continue
        target.write(struct.pack("<4sI", kind, size))
        if kind == b"VP8X":
            flags = _whole(source.read(padded), padded)
            target.write(bytes([flags[0] & ~(WEBP_EXIF_FLAG | WEBP_XMP_FLAG)]) + flags[1:])
        else:
            _copy(source, target, padded)
        written += 8 + padded
    target.seek(4)
    target.write(struct.pack("<I", written))


def strip_jpeg(source: IO[bytes], target: IO[bytes]) -> None:
    if source.read(2) != b"\xff\xd8":
        raise Malformed("not a JPEG")
    target.write(b"\xff\xd8")
    while True:
        start, kind = _whole(source.read(2), 2)
        if start != 0xFF:
            raise Malformed("the JPEG lacks a marker")
        size = int.from_bytes(_whole(source.read(2), 2), "big")
        if kind in JPEG_METADATA:
            source.seek(size - 2, 1)
            continue
        target.write(bytes([start, kind]) + size.to_bytes(2, "big"))
        _copy(source, target, size - 2)
        if kind == JPEG_SCAN:  # the image data up to its end marker; anything after that is dropped
            _copy_scans(source, target)
            return


def _copy_scans(source: IO[bytes], target: IO[bytes]) -> None:
    """Entropy-coded data and the segments between scans, up to the end marker."""
    kept = b""
    while piece := source.read(CHUNK_BYTES):
        kept += piece
        end = _end_of_jpeg(kept)
        if end is not None:
            target.write(kept[:end])
            return
        target.write(kept[:-1])
        kept = kept[-1:]
    raise Malformed("the JPEG has no end")


def _end_of_jpeg(data: bytes) -> int | None:
    """In entropy-coded data, 0xFF is always followed by 0, so this sequence is unambiguous."""
    at = data.find(b"\xff\xd9")
    return None if at < 0 else at + 2


def strip_gif(source: IO[bytes], target: IO[bytes]) -> None:
    """Removes comments and application extensions, except the one with the loop count."""
    head = _whole(source.read(13), 13)
    if head[:3] != b"GIF":
        raise Malformed("not a GIF")
    target.write(head)
    _copy(source, target, _palette_size(head[10]))
    while (kind := _whole(source.read(1), 1)) != b";":
        if kind == b"!":
            label = _whole(source.read(1), 1)
            blocks = _gif_blocks(source)
            if label != b"\xfe" and not (label == b"\xff" and blocks[1:12] not in GIF_LOOPS):
                target.write(kind + label + blocks)
        elif kind == b",":
            about = _whole(source.read(9), 9)
            target.write(kind + about)
            _copy(source, target, _palette_size(about[8]))
            target.write(_whole(source.read(1), 1) + _gif_blocks(source))
        else:
            raise Malformed("the GIF has an unknown block")
    target.write(b";")


GIF_LOOPS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")


def _palette_size(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_blocks(source: IO[bytes]) -> bytes:
    """Sub-blocks up to the empty one that ends them."""
    found = bytearray()
    while size := _whole(source.read(1), 1)[0]:
        found += bytes([size]) + _whole(source.read(size), size)
    return bytes(found) + b"\0"


def strip_glb(source: IO[bytes], target: IO[bytes]) -> None:
    """Removes `asset.extras`, which ComfyUI writes, with all other extras of the asset."""
    magic, version, _ = struct.unpack("<4sII", _whole(source.read(12), 12))
    size, kind = struct.unpack("<II", _whole(source.read(8), 8))
    if magic != b"glTF" or kind != GLB_JSON or size > MAX_HEADER:
        raise Malformed("not a GLB")
    scene = json.loads(_whole(source.read(size), size))
    if isinstance(scene.get("asset"), dict):
        scene["asset"].pop("extras", None)
    text = json.dumps(scene, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    target.write(struct.pack("<4sIIII", magic, version, 0, len(text), kind) + text)
    while piece := source.read(CHUNK_BYTES):
        target.write(piece)
    length = target.tell()
    target.seek(8)
    target.write(struct.pack("<I", length))


def strip_safetensors(source: IO[bytes], target: IO[bytes]) -> None:
    size = int.from_bytes(_whole(source.read(8), 8), "little")
    if size > MAX_HEADER:
        raise Malformed("not a safetensors file")
    header = json.loads(_whole(source.read(size), size))
    header.pop("__metadata__", None)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    target.write(len(text).to_bytes(8, "little") + text)
    while piece := source.read(CHUNK_BYTES):
        target.write(piece)


STRIPPERS: dict[str, Callable[[IO[bytes], IO[bytes]], None]] = {
    "image/png": strip_png,
    "image/apng": strip_png,
    "image/webp": strip_webp,
    "image/jpeg": strip_jpeg,
    "image/gif": strip_gif,
    "model/gltf-binary": strip_glb,
}


def strip(source: Path, target: Path, content_type: str) -> bool:
    """Copy without metadata. False for types not handled here. Raises Malformed."""
    stripper = STRIPPERS.get(content_type) or (strip_safetensors if _is_safetensors(source) else None)
    if stripper is None:
        return False
    try:
        with source.open("rb") as stream, target.open("wb") as out:
            stripper(stream, out)
    except (ValueError, struct.error, RecursionError) as exc:
        raise Malformed(str(exc)) from exc
    return True


def _is_safetensors(path: Path) -> bool:
    """Includes ComfyUI's latents: eight bytes of length, and a JSON object."""
    with path.open("rb") as stream:
        head = stream.read(10)
    return len(head) == 10 and head[8:] in (b'{"', b"{ ") and int.from_bytes(head[:8], "little") <= MAX_HEADER


def _whole(data: bytes, size: int) -> bytes:
    if len(data) < size:
        raise Malformed("the file ends too early")
    return data


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    if size < 0:
        raise Malformed("a chunk has no size")
    while size > 0:
        piece = source.read(min(CHUNK_BYTES, size))
        if not piece:
            raise Malformed("the file ends too early")
        target.write(piece)
        size -= len(piece)
