"""Converts outputs to the requested format, while the next run is in progress."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from files import converted, sandbox
from files.conversion import ConversionOptions
from files.conversion_errors import CannotConvert
from files.errors import BytesMissing, StorageUnavailable
from files.models import ConvertedFile
from workflows.graph import refusals
from workflows.models import Level, Output
from workflows.queue.claims import Claim
from workflows.queue.execution_log import Line

logger = logging.getLogger(__name__)

ALL_SECONDS = 600.0  # for all outputs of a run; the rest is converted on download
LATER = "it is converted when it is downloaded with the same parameters"

Made = list[tuple[Output, ConvertedFile]]


def convert(
    claim: Claim, outputs: Sequence[Output], *, alive: Callable[[], bool], stop: threading.Event
) -> tuple[Made, list[Line]]:
    """Return (converted outputs, with rows not saved yet; a warning for each output that failed).

    Raises nothing: a result with unconverted outputs is better than none.
    """
    wanted = ConversionOptions.of(claim.output)
    made: Made = []
    lines: list[Line] = []
    until = time.monotonic() + ALL_SECONDS

    def may_continue() -> bool:
        return alive() and not stop.is_set() and time.monotonic() < until

    for output in outputs if wanted else ():
        try:
            new = _convert(output, wanted, alive=may_continue)
        except (CannotConvert, BytesMissing, StorageUnavailable, sandbox.Abandoned) as exc:
            lines.append(_warning(claim, output, exc))
        else:
            made += [(output, new)] if new else []
    return made, lines


def _convert(output: Output, wanted: ConversionOptions, *, alive: Callable[[], bool]) -> ConvertedFile | None:
    """None if it already has the requested format."""
    if output.file is None or wanted.for_type(output.file.content_type) is None:
        return None
    if not alive():
        raise sandbox.Abandoned
    return converted.make(output.file, wanted, alive=alive)


def _warning(claim: Claim, output: Output, exc: Exception) -> Line:
    named = refusals.named(claim.prompt, output.node_id)
    why = str(exc) if isinstance(exc, CannotConvert) else LATER
    filename = output.file.filename if output.file else ""
    return Line(f"{named}: {filename!r} was not converted: {why}", Level.WARNING, output.node_id)
