"""Measurements: each module says what it measures and how to run it."""

from __future__ import annotations
