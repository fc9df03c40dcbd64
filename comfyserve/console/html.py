"""Small HTML fragments. All external values are escaped here, by `format_html`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

NONE = "–"  # noqa: RUF001  (shown where there is nothing)
TONES = {
    **dict.fromkeys(("completed", "delivered", "active", "done", "healthy"), "good"),
    **dict.fromkeys(("running", "taken"), "busy"),
    **dict.fromkeys(("failed", "faulty", "hung", "unreachable", "silent", "unhealthy"), "bad"),
    **dict.fromkeys(("paused", "draining", "degraded", "high", "WARNING"), "warn"),
    "ERROR": "bad",
}


def badge(text: object, tone: str | None = None, *, title: str = "") -> SafeString:
    """A coloured badge; `tone` is good, busy, bad, warn or plain, and is derived from known words."""
    tone = tone or TONES.get(str(text), "plain")
    return format_html('<span class="cs-badge cs-{}" title="{}">{}</span>', tone, title, text)


def progress(percentage: float, *, label: str) -> SafeString:
    """A progress bar from 0 to 100 with the number beside it; `label` is read by screen readers."""
    shown = round(min(max(percentage, 0.0), 100.0))
    return format_html(
        '<span class="cs-progress"><progress max="100" value="{}" aria-label="{}"></progress>'
        '<span class="cs-number">{} %</span></span>',
        shown,
        label,
        shown,
    )


def picture(address: str | None, *, text: str, link: str | None = None) -> SafeString:
    """A thumbnail, or an empty frame if there is none. `text` is the alternative text."""
    if address is None:
        return format_html('<span class="cs-thumb cs-none" title="{}"></span>', text)
    image = format_html('<img class="cs-thumb" src="{}" alt="{}" loading="lazy">', address, text)
    return format_html('<a href="{}">{}</a>', link, image) if link else image


def duration(seconds: float | None) -> str:
    """Such as 3.2 s, 4 min 10 s, 2 h 5 min, 3 d 4 h."""
    if seconds is None:
        return NONE
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def ago(moment: datetime | None) -> SafeString | str:
    """Relative time, with the exact time as a tooltip."""
    if moment is None:
        return NONE
    passed = (timezone.now() - moment).total_seconds()
    words = "just now" if passed < 1 else f"{_roughly(passed)} ago"
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        moment.isoformat(),
        f"{moment:%Y-%m-%d %H:%M:%S} UTC",
        words,
    )


def _roughly(seconds: float) -> str:
    """In the largest unit only; the tooltip has the exact time."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def number(value: float | None) -> str:
    """With thousands separators."""
    return NONE if value is None else f"{value:,.0f}"


def size(value: float | None) -> str:
    """Human-readable bytes: 12 B, 3.4 MiB."""
    if value is None:
        return NONE
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def pairs(entries: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Only those that have a value."""
    return [(name, value) for name, value in entries if value not in (None, "", NONE)]
