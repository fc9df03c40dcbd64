from __future__ import annotations

import enum
from dataclasses import dataclass


class Verdict(enum.Enum):
    GOOD = "good"
    NOTE = "note"  # works, but could be better
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    verdict: Verdict
    subject: str
    seen: str
    to_do: str = ""


def good(subject: str, seen: str) -> Finding:
    return Finding(Verdict.GOOD, subject, seen)


def note(subject: str, seen: str, to_do: str = "") -> Finding:
    return Finding(Verdict.NOTE, subject, seen, to_do)


def bad(subject: str, seen: str, to_do: str) -> Finding:
    return Finding(Verdict.BAD, subject, seen, to_do)
