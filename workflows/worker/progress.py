"""Converts ComfyUI's events of one run to progress columns and log lines.

Progress counts steps of the whole workflow: a node with sampling steps counts that many, any other node one.
It never decreases within an attempt; cached nodes count as done from the start; nodes that no output depends
on do not count.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from comfyui import events
from workflows.graph import parsing
from workflows.metrics import store
from workflows.models import LineKind
from workflows.queue.execution_log import Line

MAX_STEPS = 10_000  # per node, as written in the graph: a typo must not dominate the total
WINDOW = 30  # number of measured steps used for the estimate


class Progress:
    """The progress of one attempt. Not thread-safe."""

    def __init__(self, prompt: parsing.Prompt, output_nodes: Iterable[str]) -> None:
        self._prompt = prompt
        needed = parsing.ancestors(prompt, list(output_nodes)) or set(prompt)
        self._weights = {node_id: _steps_of(prompt[node_id]) for node_id in needed}
        self._done: dict[str, float] = dict.fromkeys(needed, 0.0)  # node id -> fraction done
        self._current: str | None = None
        self._samples: deque[tuple[float, float]] = deque(maxlen=WINDOW)  # (monotonic seconds, steps)
        self._lines: list[Line] = []
        self._named: set[str] = set()

    @property
    def total_steps(self) -> int:
        return sum(self._weights.values())

    def handle(self, event: events.Event) -> None:
        match event:
            case events.Cached(nodes=nodes):
                self._cached(nodes)
            case events.Executing(node_id=str(node_id)):
                self._executing(node_id)
            case events.ProgressState(nodes=states):
                for node_id, state in states.items():
                    finished = state.state == "finished"
                    self._reach(node_id, 1.0 if finished else _fraction(state.value, state.max))
                    if state.state == "running" and state.max > 1:
                        self._measure()

    def _cached(self, nodes: Iterable[str]) -> None:
        known = [node_id for node_id in nodes if node_id in self._done]
        for node_id in known:
            self._done[node_id] = 1.0
        if known:
            self._lines.append(Line(f"{len(known)} of {len(self._done)} nodes are cached and need not run"))

    def _executing(self, node_id: str) -> None:
        if self._current is not None and self._current != node_id:
            self._reach(self._current, 1.0)
        self._current = node_id
        if node_id not in self._named:
            self._named.add(node_id)
            does = _what_it_does(self._prompt, node_id)
            self._lines.append(Line(does, node_id=node_id, kind=LineKind.NODE))
            for used in parsing.models_of(
                {node_id: self._prompt[node_id]} if node_id in self._prompt else {}
            ):
                store.model_loaded(name=used.name, type=used.type)

    def _reach(self, node_id: str, fraction: float) -> None:
        if node_id in self._done:
            self._done[node_id] = max(self._done[node_id], fraction)

    def _measure(self) -> None:
        steps = self._steps()
        if not self._samples or steps > self._samples[-1][1]:
            self._samples.append((time.monotonic(), steps))

    def _steps(self) -> float:
        return sum(self._weights[node_id] * fraction for node_id, fraction in self._done.items())

    def _eta(self, steps: float) -> float | None:
        """Estimated seconds left, from the latest measured steps; None before there are two."""
        if len(self._samples) < 2:
            return None
        (began, first), (ended, last) = self._samples[0], self._samples[-1]
        return (self.total_steps - steps) * (ended - began) / (last - first)

    def columns(self) -> dict[str, Any]:
        """The current values for the execution's row."""
        steps = self._steps()
        return {
            "current_step": int(steps + 1e-9),
            "total_steps": self.total_steps,
            "percentage": 100.0 * steps / self.total_steps,
            "current_node": self._current,
            "eta_seconds": self._eta(steps),
        }

    def take_lines(self) -> list[Line]:
        """The log lines since the last call."""
        lines, self._lines = self._lines, []
        return lines


def _steps_of(node: dict[str, Any]) -> int:
    steps = node["inputs"].get("steps")
    if isinstance(steps, int) and not isinstance(steps, bool):
        return min(max(steps, 1), MAX_STEPS)
    return 1


def _fraction(value: float, maximum: float) -> float:
    return min(max(value / maximum, 0.0), 1.0) if maximum > 0 else 0.0


def _what_it_does(prompt: parsing.Prompt, node_id: str) -> str:
    if node_id in prompt:
        used = parsing.models_of({node_id: prompt[node_id]})
        if used:
            return f"Loading model: {', '.join(use.name for use in used)}"
    return f"Running {parsing.title_of(prompt, node_id)}"
