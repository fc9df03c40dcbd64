"""The error of a failed conversion."""

from __future__ import annotations


class CannotConvert(Exception):
    """`str()` is a sentence for users. Trying again does not help."""
