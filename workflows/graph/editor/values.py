"""Widget values as JavaScript and the editor's widgets treat them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from .definitions import UNDEFINED

DEEPEST_CHOICE = 50
Choose = Callable[[Sequence[str]], str]
_COMMENT = re.compile(r"/\*|//")
_REPLACEMENT = re.compile(r"%([^%]+)%")
_DATE = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyy?y?")
_UNSAFE = re.compile(r'[/?<>\\:*|"\x00-\x1F\x7F]')


def as_text(value: Any) -> str:
    """A value as a text box stores it."""
    if value is None:
        return ""
    return js_string(value).replace("\r\n", "\n").replace("\r", "\n")


def js_string(value: Any) -> str:
    """JavaScript's String(value)."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer() and abs(value) < 1e21:
            return str(int(value))
        case list():
            return ",".join("" if item is None else js_string(item) for item in value)
        case dict():
            return "[object Object]"
    return "undefined" if value is UNDEFINED else str(value)


def annotated(value: Any, *, options: Mapping[str, Any], initial: Any) -> Any:
    """The value of a combo with an upload button: a path, with the folder appended unless it is `input`."""
    if not value:
        return js_string(initial)
    if isinstance(value, list):
        paths = [_path(item, options) for item in value]
        return paths if options.get("allow_batch") else paths[0]
    return _path(value, options)


def _path(item: Any, options: Mapping[str, Any]) -> str:
    root = str(options.get("image_folder") or "input")
    if isinstance(item, dict):
        folder = str(item.get("subfolder") or "")
        path = f"{folder}/{item.get('filename', '')}" if folder else str(item.get("filename", ""))
        kind = item.get("type")
        return f"{path} [{kind}]" if kind and kind != root else path
    path = js_string(item)
    return path if root == "input" or path.endswith("]") else f"{path} [{root}]"


# -- numbers set by a primitive --------------------------------------------------------------------------
def rounded(value: Any, *, kind: str, options: Mapping[str, Any]) -> Any:
    """The value as a number widget rounds it when it is changed: aligned to its step."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return value
    if kind == "INT":
        return _rounded_int(value, options)
    return _rounded_float(value, options) if kind == "FLOAT" else value


def _rounded_int(value: float, options: Mapping[str, Any]) -> int | float:
    step = options.get("step") or 1
    if step == 1:
        return _nearest(value)
    offset = math.fmod(options.get("min") or 0, step)
    return _nearest((value - offset) / step) * step + offset


def _rounded_float(value: float, options: Mapping[str, Any]) -> float:
    step = options.get("step") or 0.5
    precision = max(0, -math.floor(math.log10(step)))
    grid = options.get("round") or (10**-precision if precision else None)
    if not grid:
        return value
    found = float(f"{_nearest(value / grid) * grid:.{precision}f}")
    low, high = options.get("min", 0), options.get("max", 2048)
    return max(low, min(high, found)) if low is not None and high is not None else found


def _nearest(value: float) -> int:
    """JavaScript's Math.round: halves are rounded up."""
    return value if isinstance(value, int) else math.floor(value + 0.5)


# -- texts -------------------------------------------------------------------------------------------------
def dynamic(text: str, choose: Choose, *, depth: int = 0) -> str:
    """Pick one choice of each {a|b} in a prompt and remove comments. Blocks nested deeper than DEEPEST_CHOICE
    are kept as they are.
    """
    if depth > DEEPEST_CHOICE:
        return text
    text = _without_comments(text)
    result, i = "", 0
    while i < len(text):
        char = text[i]
        i += 1
        if char == "\\":
            result += "\\" + text[i : i + 1]
            i += 1
        elif char == "{":
            options, i = _options(text, i)
            result += dynamic(choose(options), choose, depth=depth + 1)
        else:
            result += char
    return re.sub(r"\\([{}|])", r"\1", result)


def _without_comments(text: str) -> str:
    """Remove /* blocks */ and // line comments; an unclosed block is not a comment."""
    kept, at = [], 0
    while (found := _COMMENT.search(text, at)) is not None:
        block = found.group(0) == "/*"
        end = text.find("*/" if block else "\n", found.end())
        if end < 0 and block:
            kept.append(text[at : found.end()])
            at = found.end()
            if "//" not in text[at:]:
                break
            continue
        kept.append(text[at : found.start()])
        at = len(text) if end < 0 else end + 2 * block
    return "".join(kept) + text[at:]


def _options(text: str, i: int) -> tuple[list[str], int]:
    """The choices of the block that starts at `i`, and the index after its end."""
    options, choice, depth = [], "", 0
    while i < len(text):
        char = text[i]
        i += 1
        if char == "\\":
            choice += "\\" + text[i : i + 1]
            i += 1
            continue
        if char == "}" and not depth:
            break
        if char == "|" and not depth:
            options.append(choice)
            choice = ""
            continue
        depth += (char == "{") - (char == "}")
        choice += char
    return [*options, choice], i


def replaced(text: str, *, lookup: Callable[[str, str], Any], now: datetime) -> str:
    """Fill in %date:yyyy-MM-dd% and %Node.widget% in a file name; unknown placeholders are kept.

    `lookup` returns the value of a node's widget, or UNDEFINED.
    """

    def fill(match: re.Match[str]) -> str:
        parts = match.group(1).split(".")
        if len(parts) != 2:
            if parts[0].startswith("date:"):
                return formatted(parts[0].removeprefix("date:"), now)
            return match.group(0)
        value = lookup(*parts)
        if value is UNDEFINED:
            return match.group(0)
        return _UNSAFE.sub("_", "" if value is None else js_string(value))

    return _REPLACEMENT.sub(fill, text)


def formatted(pattern: str, now: datetime) -> str:
    """Format a time with the editor's date patterns: yyyy, yy, MM, dd, hh, mm, ss."""
    parts = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(match: re.Match[str]) -> str:
        text = match.group(0)
        if text in ("yy", "yyyy"):
            return str(now.year)[-len(text) :]
        return str(parts[text[0]]).zfill(len(text)) if text[0] in parts else text

    return _DATE.sub(part, pattern)
