"""File names for display. They are never part of a path."""

from __future__ import annotations

import re
import unicodedata
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from urllib.parse import quote, unquote

from django.utils.http import content_disposition_header

LONGEST = 255
# Control characters, bidirectional overrides, and lone surrogates.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def clean(name: str) -> str:
    """The last component of any path, without invisible characters, at most 255 characters.

    The extension survives truncation. "file" if nothing is left.
    """
    name = unicodedata.normalize("NFC", _UNSEEN.sub("", name))
    name = re.split(r"[/\\]", name)[-1].strip().strip(".").strip()
    if len(name) > LONGEST:
        stem, dot, extension = name.rpartition(".")
        if dot and stem and len(extension) <= 16:
            name = f"{stem[: LONGEST - len(extension) - 1]}.{extension}"
        else:
            name = name[:LONGEST]
    return name or "file"


def of_part(filename: str | None, extended: str | None) -> str | None:
    """The file name of a form part, from `filename` and `filename*` (RFC 5987).

    Some clients (.NET) encode `filename` as in mail, "=?utf-8?B?...?=".
    """
    if extended:
        charset, _, rest = extended.partition("'")
        _, _, quoted = rest.partition("'")
        try:
            return unquote(quoted, encoding=charset or "utf-8", errors="strict")
        except (LookupError, UnicodeDecodeError):
            return filename or extended
    if filename and re.fullmatch(r"=\?[^?]+\?[bBqQ]\?.*\?=", filename):
        try:
            return str(make_header(decode_header(filename)))
        except (HeaderParseError, LookupError, UnicodeDecodeError, ValueError):
            return filename
    return filename


def disposition(filename: str, *, attachment: bool) -> str:
    """The Content-Disposition header; a non-ASCII name gets an ASCII fallback for simple clients."""
    if filename.isascii():
        return content_disposition_header(attachment, filename) or "inline"
    plain = unicodedata.normalize("NFKD", filename).encode("ascii", "ignore").decode()
    plain = re.sub(r'["\\]|\s+(?=\.)', "", plain).strip() or "file"
    if plain.startswith("."):
        plain = f"file{plain}"
    kind = "attachment" if attachment else "inline"
    return f"{kind}; filename=\"{plain}\"; filename*=utf-8''{quote(filename, safe='')}"
