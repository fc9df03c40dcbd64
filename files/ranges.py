"""Conditional and partial requests: If-None-Match, Range, If-Range (RFC 9110)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from comfyserve.api.errors import ApiError


class RangeNotSatisfiable(ApiError):
    status = 416
    error = "range_not_satisfiable"

    def __init__(self, size: int) -> None:
        super().__init__(
            f"The requested range is not within the {size} bytes of the file",
            headers={"Content-Range": f"bytes */{size}"},
        )


@dataclass(frozen=True)
class Part:
    start: int
    length: int
    size: int  # of the whole

    @property
    def content_range(self) -> str:
        return f"bytes {self.start}-{self.start + self.length - 1}/{self.size}"


def is_known(header: str | None, *, etag: str) -> bool:
    """Whether `If-None-Match` matches our ETag. Weak comparison, as the RFC requires."""
    if header is None:
        return False
    return header.strip() == "*" or etag in re.findall(r'(?:W/)?("[^"]*")', header)


def part_of(header: str | None, *, size: int, if_range: str | None, etag: str) -> Part | None:
    """The requested range; None is the whole file.

    Multiple ranges, and units other than bytes, get the whole file, as the RFC allows. RangeNotSatisfiable
    for a range outside the file, or whose end is before its start.
    """
    if header is None or (if_range is not None and if_range.strip() != etag):
        return None
    match = re.fullmatch(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", header, re.IGNORECASE)
    if match is None or match[1] == match[2] == "":
        return None
    first, last = match[1][:20], match[2][:20]
    if first == "":
        length = min(int(last), size)
        start = size - length
    else:
        start = int(first)
        length = min(int(last) if last else size - 1, size - 1) - start + 1
    if length <= 0:
        raise RangeNotSatisfiable(size)
    return Part(start, length, size)
