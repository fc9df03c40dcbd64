"""Moved to `script.harness.graphs`, which `script/faults` uses too."""

from __future__ import annotations

from script.harness.graphs import Graph, colour, sleep, txt2img

__all__ = ["Graph", "colour", "sleep", "txt2img"]
