"""JSON as we accept it: hostile documents are 400, never 500, whatever field they are in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

MAX_DEPTH = 100


class StrictJSONParser(BaseParser):
    media_type = "application/json"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
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
        raise ParseError("The JSON is nested too deeply") from exc
    except ValueError as exc:
        raise ParseError(f"The body is not valid JSON: {exc}") from exc
    _check(value)
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:20]} is too large")
    return number


def _check(value: Any) -> None:
    """No NUL characters, no lone surrogates, no numbers beyond 64 bits, nothing nested too deeply."""
    stack = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise ParseError(f"The JSON is nested more than {MAX_DEPTH} levels deep")
        if isinstance(item, str):
            _check_text(item)
        elif isinstance(item, dict):
            for key, inner in item.items():
                _check_text(key)
                stack.append((inner, depth + 1))
        elif isinstance(item, list):
            stack.extend((inner, depth + 1) for inner in item)
        elif isinstance(item, int) and not -(2**63) <= item < 2**64:
            raise ParseError("The JSON has a whole number beyond 64 bits")


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise ParseError("The JSON has a NUL character in a string")
    if any("\ud800" <= character <= "\udfff" for character in text) if not text.isascii() else False:
        raise ParseError("The JSON has a lone surrogate in a string")
