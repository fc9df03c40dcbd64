"""JSON as we accept it: hostile documents are 400, never 500, whatever field they are in."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

MAX_DEPTH = 100
SMALLEST, LARGEST = -(2**63), 2**64 - 1  # ComfyUI's seeds use all 64 bits without a sign
TOO_DEEP = f"The JSON is nested more than {MAX_DEPTH} levels deep"
TOO_LONG = "The JSON has a whole number beyond 64 bits"
SURROGATE = re.compile("[\ud800-\udfff]")


class StrictJSONParser(BaseParser):
    media_type = "application/json"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,  # noqa: ARG002
        parser_context: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> Any:
        return loads(stream.read())


def loads(raw: bytes) -> Any:
    """`raw` as Python values. ParseError on what PostgreSQL or ComfyUI could not hold."""
    try:
        text = raw.decode("utf-8")
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except UnicodeDecodeError as exc:
        raise ParseError("The body is not UTF-8") from exc
    except RecursionError as exc:
        raise ParseError(TOO_DEEP) from exc
    except json.JSONDecodeError as exc:
        where = f"line {exc.lineno} column {exc.colno}"
        raise ParseError(f"The body is not valid JSON: {exc.msg} at {where}") from exc
    except ValueError as exc:  # Python reads no whole number of more than 4,300 digits
        raise ParseError(TOO_LONG) from exc
    # Strict JSON has NUL characters and surrogates only as escapes: most bodies need no look at their texts.
    _check(value, texts=b"\\u" in raw)
    return value


def _refuse(name: str) -> Any:
    raise ParseError(f"The body is not valid JSON: {name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ParseError(f"The JSON has a number that is too large: {text[:20]}")
    return number


def _check(value: Any, *, texts: bool) -> None:
    """No NUL characters, no lone surrogates, no numbers beyond 64 bits, nothing nested too deeply."""
    stack = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise ParseError(TOO_DEEP)
        if isinstance(item, dict):
            if texts:
                for key in item:
                    _check_text(key)
            stack.extend((inner, depth + 1) for inner in item.values())
        elif isinstance(item, list):
            stack.extend((inner, depth + 1) for inner in item)
        elif isinstance(item, str):
            if texts:
                _check_text(item)
        elif isinstance(item, int) and not SMALLEST <= item <= LARGEST:
            raise ParseError(TOO_LONG)


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise ParseError("The JSON has a NUL character in a string")
    if SURROGATE.search(text):
        raise ParseError("The JSON has a lone surrogate in a string")
