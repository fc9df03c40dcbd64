"""Moved to `script.harness.stack`, which `script/faults` uses too."""

from __future__ import annotations

from script.harness.stack import DATABASE, Person, Stack

__all__ = ["DATABASE", "Person", "Stack"]
