"""Moved to `script.harness.relay`, which `script/faults` uses too."""

from __future__ import annotations

from script.harness.relay import Proxy

__all__ = ["Proxy"]
