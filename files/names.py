"""File names for display. They are never part of a path."""

from __future__ import annotations

import re
import unicodedata

LONGEST = 255
# Control characters, what turns the direction of writing, and lone surrogates.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def clean(name: str) -> str:
    """The last part of whatever path it is, without what cannot be seen, at most 255 characters.

    The extension survives the cut. "file" where nothing is left.
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
