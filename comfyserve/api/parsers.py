"""Strict JSON parsing: hostile documents are 400, never 500, whatever field they are in."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from json.decoder import scanstring  # type: ignore[attr-defined]  # not in its stubs
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

from . import json_limits
from .errors import Detail, ValidationFailed
from .json_limits import MAX_DEPTH, TOO_DEEP

SMALLEST, LARGEST = -(2**63), 2**64 - 1  # ComfyUI's seeds use all 64 bits without a sign
LONGEST_NUMBER = 4300  # digits that Python reads
MAX_MISTAKES = 50  # invalid numbers and strings reported in one response
TOO_LONG = "A whole number must fit in 64 bits"
UNREADABLE = f"A whole number may have at most {LONGEST_NUMBER:,} digits"
NUL = "A string has a NUL character (\\u0000)"
LONE_SURROGATE = "A string has a lone surrogate: half of a character beyond \\uffff"
SURROGATE = re.compile("[\ud800-\udfff]")
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
BLANKS = re.compile(r"[ \t\n\r]*")
# The sender's own JSON, which we keep as text: its numbers may be of any length.
VERBATIM = "metadata"
Place = tuple["Place | None", str | int]  # the place around it, and the key or index within that


class Document(dict[str, Any]):
    """A JSON object together with the text it was parsed from."""

    text = ""

    def text_of(self, name: str) -> str | None:
        """The JSON of one of its values, exactly as sent; of duplicate keys the last one counts."""
        decoder, found = json.JSONDecoder(), None
        at = _skip_whitespace(self.text, self.text.index("{") + 1)
        while self.text[at] != "}":
            key, at = scanstring(self.text, at + 1, True)
            begin = _skip_whitespace(self.text, _skip_whitespace(self.text, at) + 1)
            _, end = decoder.raw_decode(self.text, begin)
            if key == name:
                found = self.text[begin:end]
            at = _skip_whitespace(self.text, end)
            if self.text[at] == ",":
                at = _skip_whitespace(self.text, at + 1)
        return found


class StrictJSONParser(BaseParser):
    media_type = "application/json"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,  # noqa: ARG002
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        request = (parser_context or {}).get("request")
        user = getattr(request, "user", None)
        is_anonymous = user is not None and not user.is_authenticated
        elements = json_limits.MAX_ELEMENTS_ANONYMOUS if is_anonymous else json_limits.MAX_ELEMENTS
        return loads(stream.read(), elements=elements)


class _NoNumber:
    """Placeholder for an invalid JSON number, or one too large to be read."""

    def __init__(self, mistake: str) -> None:
        self.mistake = mistake


def loads(raw: bytes, *, elements: int = json_limits.MAX_ELEMENTS) -> Any:
    """`raw` as Python values, an object as a Document; `elements` is how many it may have.

    ParseError if it cannot be parsed; ValidationFailed with the path of each invalid number or string.
    """
    json_limits.check(raw, elements=elements)
    try:
        text = raw.decode("utf-8-sig")  # Windows tools prepend a byte order mark
        value = _decoded(text)
    except UnicodeDecodeError as exc:
        raise ParseError("The body is not UTF-8") from exc
    except RecursionError as exc:
        raise ParseError(TOO_DEEP) from exc
    except json.JSONDecodeError as exc:
        where = f"line {exc.lineno} column {exc.colno}"
        raise ParseError(f"The body is not valid JSON: {exc.msg} at {where}") from exc
    # Valid JSON has NUL characters and surrogates only as escapes: most bodies need no check of their
    # strings.
    _check(value, texts=b"\\u" in raw)
    if isinstance(value, dict):
        value = Document(value)
        value.text = text
    return value


def _decoded(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_constant, parse_float=_float)
    except json.JSONDecodeError:
        raise
    except ValueError:  # a whole number that Python does not read
        return json.loads(text, parse_constant=_constant, parse_float=_float, parse_int=_whole)


def _constant(name: str) -> _NoNumber:
    return _NoNumber(f"{name} is not a JSON number")


def _float(text: str) -> float | _NoNumber:
    number = float(text)
    return _NoNumber(f"The number {text[:20]} is too large") if math.isinf(number) else number


def _whole(text: str) -> int | _NoNumber:
    return int(text) if len(text) <= LONGEST_NUMBER else _NoNumber(UNREADABLE)


def check(value: Any) -> None:
    """For JSON that another parser has read: raises ValidationFailed with the path of each invalid number or
    string, and ParseError if it is nested too deeply.
    """
    _check(value, texts=True)


def _check(value: Any, *, texts: bool) -> None:
    """No NUL characters, no lone surrogates, no numbers beyond 64 bits, nothing nested too deeply."""
    mistakes: list[Detail] = []
    stack: list[tuple[Any, int, Place | None]] = [(value, 0, None)]
    while stack and len(mistakes) < MAX_MISTAKES:
        item, depth, place = stack.pop()
        if depth > MAX_DEPTH:
            raise ParseError(TOO_DEEP)
        if isinstance(item, dict):
            if texts:
                mistakes += [_mistake(wrong, (place, key)) for key in item if (wrong := _wrong_text(key))]
            stack.extend((inner, depth + 1, (place, key)) for key, inner in item.items())
        elif isinstance(item, list):
            stack.extend((inner, depth + 1, (place, i)) for i, inner in enumerate(item))
        elif isinstance(item, str):
            if texts and (wrong := _wrong_text(item)):
                mistakes.append(_mistake(wrong, place))
        elif isinstance(item, _NoNumber):
            mistakes.append(_mistake(item.mistake, place))
        elif isinstance(item, float) and not math.isfinite(item):
            mistakes.append(_mistake(f"{item} is not a JSON number", place))
        elif isinstance(item, int) and not SMALLEST <= item <= LARGEST and _root(place) != VERBATIM:
            mistakes.append(_mistake(TOO_LONG, place))
    if mistakes:
        raise ValidationFailed(mistakes[::-1])


def _mistake(message: str, place: Place | None) -> Detail:
    path = ".".join(str(part) for part in list(_parts(place))[::-1])
    code = "INVALID_STRING" if message in (NUL, LONE_SURROGATE) else "INVALID_NUMBER"
    return Detail(code, message, UNSTORABLE.sub("\ufffd", path) or None)


def _parts(place: Place | None) -> Iterator[str | int]:
    """From the innermost part outwards."""
    while place is not None:
        place, part = place
        yield part


def _root(place: Place | None) -> str | int | None:
    *_, outermost = (None, *_parts(place))
    return outermost


def _skip_whitespace(text: str, at: int) -> int:
    found = BLANKS.match(text, at)
    return found.end() if found else at


def _wrong_text(text: str) -> str | None:
    if "\x00" in text:
        return NUL
    return LONE_SURROGATE if SURROGATE.search(text) else None
