"""Moved to `script.harness.sse`, which `script/faults` uses too."""

from __future__ import annotations

from script.harness.sse import Event, EventStream, follow

__all__ = ["Event", "EventStream", "follow"]
