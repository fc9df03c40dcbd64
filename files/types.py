"""Content types, detected from the bytes. The sender's claim decides nothing that a browser acts on."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Literal

import filetype

from .formats import BY_EXTENSION, BY_MAGIC, BY_TYPE, Group

HEAD = 8192  # bytes inspected
UNKNOWN = "application/octet-stream"
# Whose header is read when they are stored: one without a size is damaged.
MEASURED = (
    "image/png", "image/apng", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/tiff",
    "image/avif", "image/heic", "image/heif",
)  # fmt: skip
PNG_HEADER = 26  # bytes of a PNG up to its kind of colour
# Formats that are not read here, known by name so that they can be refused by it: raw files of cameras,
# JPEG XL without a container, Radiance.
_NOT_READ = {
    b"\xff\x0a": "image/jxl",
    b"FUJIFILMCCD-RAW": "image/x-fuji-raf",
    b"IIRO": "image/x-olympus-orf",
    b"IIRS": "image/x-olympus-orf",
    b"IIU\x00": "image/x-panasonic-rw2",
    b"FOVb": "image/x-raw-sigma",
    b"#?RADIANCE": "image/vnd.radiance",
    b"#?RGBE": "image/vnd.radiance",
}
_MAKE, _SUB_IFDS, _DNG_VERSION = 0x010F, 0x014A, 0xC612  # tags of TIFF
MEDIA = ("image/", "video/", "audio/", "model/")
_MARKUP = re.compile(rb"<(!doctype|html|head|body|script|iframe|svg|\?xml|[a-z]+[:a-z]* [^>]*xmlns)", re.I)
_SCRIPT = re.compile(rb"^#!")


def of_content(head: bytes, *, filename: str = "") -> str:
    """The type of what begins with `head`, of which HEAD bytes are enough."""
    head = head[:HEAD]
    for magic, known in BY_MAGIC.items():
        if head.startswith(magic):
            return known.content_types[0]
    if head[4:12] == b"ftypavis":  # an animated AVIF
        return "image/avif"
    named = _unsupported_format(head)
    if named is not None:
        return named
    found = filetype.guess(head)
    if found is not None:
        return str(found.mime)
    return _of_text(head, filename)


def _unsupported_format(head: bytes) -> str | None:
    """The type if it is one of those. Many raw files are TIFFs, in which readers find only a preview."""
    for magic, content_type in _NOT_READ.items():
        if head.startswith(magic):
            return content_type
    if head[4:12] == b"ftypcrx ":
        return "image/x-canon-cr3"
    tags = _tiff_tags(head)
    if _DNG_VERSION in tags:
        return "image/x-adobe-dng"
    is_cr2 = head[8:10] == b"CR"
    return "image/x-raw" if {_MAKE, _SUB_IFDS} <= tags and not is_cr2 else None


def _tiff_tags(head: bytes) -> set[int]:
    """The tags of its first directory, if that begins within `head`."""
    order: Literal["little", "big"] | None = {b"II*\x00": "little", b"MM\x00*": "big"}.get(head[:4])  # type: ignore[assignment]
    if order is None:
        return set()
    at = int.from_bytes(head[4:8], order)
    count = int.from_bytes(head[at : at + 2], order)
    entries = range(at + 2, min(at + 2 + 12 * count, len(head) - 1), 12)
    return {int.from_bytes(head[entry : entry + 2], order) for entry in entries}


def _of_text(head: bytes, filename: str) -> str:
    if b"\x00" in head and head[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        return UNKNOWN
    squeezed = head.replace(b"\x00", b"")  # browsers decode UTF-16: search it for tags too
    if match := _MARKUP.search(squeezed):
        tag = match[1].lower()
        if b"<svg" in squeezed.lower():
            return "image/svg+xml"
        return "text/xml" if tag.startswith(b"?xml") or b"xmlns" in tag else "text/html"
    if _SCRIPT.match(head):
        return "text/x-script"
    if _is_text(head):
        named = BY_EXTENSION.get(PurePosixPath(filename).suffix.lower())
        return named.content_types[0] if named is not None and named.textual else "text/plain"
    return UNKNOWN


def _is_text(head: bytes) -> bool:
    if re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as exc:
        return exc.start >= len(head) - 3 and len(head) >= HEAD - 3  # cut within a character
    return True


def is_deep_png(head: bytes) -> bool:
    """Whether it has one channel of 16 bits."""
    return head[:8] == b"\x89PNG\r\n\x1a\n" and head[24:PNG_HEADER] == b"\x10\x00"


def is_shown(content_type: str) -> bool:
    """Whether a browser may display it; everything else is always a download."""
    return content_type in BY_TYPE and BY_TYPE[content_type].inline


def is_media(content_type: str) -> bool:
    """Types a workflow accepts as external input."""
    return content_type.startswith(MEDIA) and content_type != "image/svg+xml"


def is_converted(content_type: str) -> bool:
    """Whether ComfyUI does not read it, so that it gets a PNG instead."""
    return content_type in BY_TYPE and BY_TYPE[content_type].converted


def group_of(filename: str) -> Group:
    """The group of an output, by its extension: ComfyUI lists videos under `images` too."""
    known = BY_EXTENSION.get(PurePosixPath(filename).suffix.lower())
    return known.group if known is not None else Group.FILES


def extension_of(content_type: str, *, filename: str = "") -> str:
    """Such as ".png": by type, else the name's own if it is a plain one, else empty."""
    known = BY_TYPE.get(content_type)
    if known is not None and known.extensions:
        return known.extensions[0]
    suffix = PurePosixPath(filename).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""
