"""Limits on JSON documents, checked on the bytes before parsing.

Parsing makes some 140 bytes of Python objects out of each `[],`: 10 MiB of them would take half a gigabyte.
"""

from __future__ import annotations

import re

from rest_framework.exceptions import ParseError

MAX_DEPTH = 100
MAX_ELEMENTS = 200_000  # values and keys: a graph of 2,000 nodes with 20 inputs each has 90,000
MAX_ELEMENTS_ANONYMOUS = 1_000  # without an account only forms are sent, no graphs
TOO_DEEP = f"The JSON is nested more than {MAX_DEPTH} levels deep"
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)  # an unterminated string is searched once
_BRACKETS = re.compile(rb"[\[\]{}]")


def check(raw: bytes, *, elements: int = MAX_ELEMENTS) -> None:
    """ParseError if the document has more than `elements` values and keys, or is nested too deeply."""
    if _separators(raw) <= elements and raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return
    bare = _STRINGS.sub(b"", raw)  # commas and brackets inside strings do not count
    if _separators(bare) > elements:
        raise ParseError(f"The JSON has more than {elements} elements")
    depth = 0
    for found in _BRACKETS.finditer(bare):
        depth += 1 if found[0] in b"[{" else -1
        if depth > MAX_DEPTH:
            raise ParseError(TOO_DEEP)


def _separators(raw: bytes) -> int:
    return sum(raw.count(mark) for mark in (b",", b":", b"[", b"{"))
