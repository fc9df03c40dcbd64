"""The parts of an attack, by name. No other import: `--help` works before anything is installed."""

from __future__ import annotations

PARTS = ("nodes", "routes", "headers", "connections", "bombs")
