"""The history of a run, assembled from its events to save a request to ComfyUI."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from comfyui import _parsing, events
from comfyui.types import History


class Recording:
    """Consumes the events of one prompt in order. Belongs to one thread.

    Only complete for runs that succeeded and were observed from start to end on one connection, with the
    result of each output node. For all others `history` is None: request it from ComfyUI.
    """

    def __init__(self, prompt_id: str, *, output_nodes: Iterable[str]) -> None:
        self._prompt_id = prompt_id
        self._missing = set(output_nodes)
        self._outputs: dict[str, dict[str, Any]] = {}
        self._started_ms: int | None = None
        self._ended_ms: int | None = None
        self._interrupted = False

    def record(self, event: events.Event) -> None:
        match event:
            case events.Connected() | events.Disconnected():
                self._interrupted = True
            case events.Started(timestamp_ms=timestamp):
                self._started_ms = timestamp
            case events.Executed(node_id=node_id, output=output):
                self._missing.discard(node_id)
                if output:
                    self._outputs[node_id] = output
            case events.Succeeded(timestamp_ms=timestamp):
                self._ended_ms = timestamp

    def history(self) -> History | None:
        """The same as ComfyUI's own history of the run, or None if events may be missing."""
        if self._interrupted or self._missing or self._started_ms is None or self._ended_ms is None:
            return None
        return History(
            prompt_id=self._prompt_id,
            outcome="success",
            completed=True,
            outputs=self._outputs,
            files=list(_parsing.files(self._outputs)),
            texts=list(_parsing.texts(self._outputs)),
            error=None,
            output_nodes=[],
            started_ms=self._started_ms,
            ended_ms=self._ended_ms,
            messages=[],
        )
