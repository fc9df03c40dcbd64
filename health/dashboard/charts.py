"""Bar charts by hour, computed here and drawn as SVG by the template: no script, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from comfyserve.console import html

from .day import Hour

WIDTH, HEIGHT = 720, 170
LEFT, BOTTOM, TOP = 8, 22, 16
STATES = ("completed", "cancelled", "failed")  # from the bottom up


@dataclass(frozen=True)
class Piece:
    state: str
    y: float
    height: float


@dataclass(frozen=True)
class Bar:
    x: float
    width: float
    pieces: list[Piece]
    label: str  # below it; empty for most
    description: str  # on hover


@dataclass(frozen=True)
class Chart:
    bars: list[Bar]
    top: str  # label of the top line
    description: str  # for screen readers
    width: int = WIDTH
    height: int = HEIGHT
    floor: int = HEIGHT - BOTTOM
    ceiling: int = TOP


def ended(hours: Sequence[Hour]) -> Chart:
    """Stacked by state."""
    highest = max(1, *(sum(hour.ended.values()) for hour in hours))
    bars = []
    for number, hour in enumerate(hours):
        pieces, floor = [], float(HEIGHT - BOTTOM)
        for state in STATES:
            height = _scaled(hour.ended.get(state, 0), highest)
            floor -= height
            if height:
                pieces.append(Piece(state, round(floor, 1), round(height, 1)))
        words = ", ".join(f"{hour.ended[state]:,} {state}" for state in STATES if hour.ended.get(state))
        bars.append(_bar(number, hour, len(hours), pieces, words or "nothing"))
    whole = sum(sum(hour.ended.values()) for hour in hours)
    return Chart(
        bars,
        f"{highest:,}",
        f"Executions that ended in each of the last {len(hours)} hours, {whole:,} in all",
    )


def waits(hours: Sequence[Hour]) -> Chart:
    """The mean wait of executions that ended in each hour."""
    highest = max(1.0, *(hour.mean_wait or 0.0 for hour in hours))
    bars = []
    for number, hour in enumerate(hours):
        height = _scaled(hour.mean_wait or 0.0, highest)
        pieces = [Piece("wait", round(HEIGHT - BOTTOM - height, 1), round(height, 1))] if height else []
        bars.append(_bar(number, hour, len(hours), pieces, html.duration(hour.mean_wait)))
    return Chart(bars, html.duration(highest), f"Mean waiting time in each of the last {len(hours)} hours")


def _scaled(value: float, highest: float) -> float:
    """Nonzero values stay visible."""
    return max(2.0, value / highest * (HEIGHT - BOTTOM - TOP)) if value else 0.0


def _bar(number: int, hour: Hour, of: int, pieces: list[Piece], words: str) -> Bar:
    step = (WIDTH - 2 * LEFT) / of
    return Bar(
        x=round(LEFT + number * step + step * 0.12, 1),
        width=round(step * 0.76, 1),
        pieces=pieces,
        label=f"{hour.start:%H}:00" if number % 4 == 0 else "",
        description=f"{hour.start:%H}:00 UTC: {words}",
    )
