"""Content types, detected from the bytes. The sender's claim decides nothing that a browser acts on."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import filetype

HEAD = 8192  # bytes that are looked at
UNKNOWN = "application/octet-stream"
EXTENSIONS = {
    "image/png": ".png", "image/apng": ".png", "image/jpeg": ".jpg", "image/webp": ".webp",
    "image/gif": ".gif", "image/bmp": ".bmp", "image/tiff": ".tiff", "image/avif": ".avif",
    "image/heic": ".heic", "image/heif": ".heif", "image/x-exr": ".exr",
    "video/mp4": ".mp4", "video/webm": ".webm", "video/quicktime": ".mov", "video/x-matroska": ".mkv",
    "video/x-msvideo": ".avi", "video/x-m4v": ".m4v",
    "audio/mpeg": ".mp3", "audio/x-wav": ".wav", "audio/wav": ".wav", "audio/ogg": ".ogg",
    "audio/x-flac": ".flac", "audio/flac": ".flac", "audio/mp4": ".m4a", "audio/aac": ".aac",
    "model/gltf-binary": ".glb",
}  # fmt: skip
# What a browser may display inline; everything else is a download.
SHOWN = {
    "image/png", "image/apng", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/avif",
    "video/mp4", "video/webm", "video/quicktime", "video/x-matroska", "video/x-m4v",
    "audio/mpeg", "audio/x-wav", "audio/wav", "audio/ogg", "audio/x-flac", "audio/flac", "audio/mp4",
    "audio/aac", "text/plain", "application/json",
}  # fmt: skip
# For text that is neither markup nor script, the name may decide.
PLAIN = {".json": "application/json", ".csv": "text/csv", ".md": "text/markdown"}
MEDIA = ("image/", "video/", "audio/", "model/")
# Formats that ComfyUI does not read: they are converted to PNG for it.
CONVERTED = {"image/heic", "image/heif"}
_MARKUP = re.compile(rb"<(!doctype|html|head|body|script|iframe|svg|\?xml|[a-z]+[:a-z]* [^>]*xmlns)", re.I)
_SCRIPT = re.compile(rb"^#!")


def of_content(head: bytes, *, filename: str = "") -> str:
    """The type of what begins with `head`, of which HEAD bytes are enough."""
    head = head[:HEAD]
    if head[:4] == b"glTF":
        return "model/gltf-binary"
    if head[:4] == b"\x76\x2f\x31\x01":
        return "image/x-exr"
    if head[4:12] == b"ftypavis":  # an animated AVIF
        return "image/avif"
    found = filetype.guess(head)
    if found is not None:
        return str(found.mime)
    return _of_text(head, filename)


def _of_text(head: bytes, filename: str) -> str:
    if b"\x00" in head and head[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        return UNKNOWN
    squeezed = head.replace(b"\x00", b"")  # UTF-16 hides its tags from nobody who looks
    if match := _MARKUP.search(squeezed):
        tag = match[1].lower()
        if b"<svg" in squeezed.lower():
            return "image/svg+xml"
        return "text/xml" if tag.startswith(b"?xml") or b"xmlns" in tag else "text/html"
    if _SCRIPT.match(head):
        return "text/x-script"
    if _is_text(head):
        return PLAIN.get(PurePosixPath(filename).suffix.lower(), "text/plain")
    return UNKNOWN


def _is_text(head: bytes) -> bool:
    if re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as exc:
        return exc.start >= len(head) - 3 and len(head) >= HEAD - 3  # cut within a character
    return True


def is_shown(content_type: str) -> bool:
    """Whether a browser may display it; everything else is always a download."""
    return content_type in SHOWN


def is_media(content_type: str) -> bool:
    """Types a workflow accepts as external input."""
    return content_type.startswith(MEDIA) and content_type != "image/svg+xml"


def extension_of(content_type: str, *, filename: str = "") -> str:
    """Such as ".png": by type, else the name's own where it is a plain one, else nothing."""
    known = EXTENSIONS.get(content_type)
    suffix = PurePosixPath(filename).suffix.lower()
    return known or (suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else "")
