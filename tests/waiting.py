"""Moved to `script.harness.waiting`, which `script/faults` uses too."""

from __future__ import annotations

from script.harness.waiting import wait_for

__all__ = ["wait_for"]
