"""The parts of an attack, by name. Imports nothing, so that `--help` works before anything is installed."""

from __future__ import annotations

PARTS = ("nodes", "routes", "headers", "addresses", "connections", "bombs")
