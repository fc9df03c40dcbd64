"""Suggestions for unknown names: for messages that say "did you mean"."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

SUGGESTIONS = 3


def near(name: str, names: Iterable[str], *, cutoff: float = 0.6) -> list[str]:
    """Up to three of `names` that are similar to `name`, the closest first. Case and punctuation count
    little."""
    by_key: dict[str, list[str]] = {}
    for each in sorted(names):
        by_key.setdefault(_key(each), []).append(each)
    close = difflib.get_close_matches(_key(name[:200]), by_key, n=SUGGESTIONS, cutoff=cutoff)
    return [each for key in close for each in by_key[key]][:SUGGESTIONS]


def did_you_mean(found: Iterable[str]) -> str:
    """Such as "; did you mean 'a' or 'b'?"; empty if there is nothing to suggest."""
    quoted = [f"'{each}'" for each in found]
    return f"; did you mean {' or '.join(quoted)}?" if quoted else ""


def _key(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower()) or name.lower()
