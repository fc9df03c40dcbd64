"""Moved to `script.harness.receiver`, which `script/faults` uses too."""

from __future__ import annotations

from script.harness.receiver import ADDRESS, Call, Receiver, Reply, close, say

__all__ = ["ADDRESS", "Call", "Receiver", "Reply", "close", "say"]
