"""Identifies the input file that kills ComfyUI while it is uploaded, without blaming what ran meanwhile.

If something ran, either may have been the cause: neither is blamed, and the next upload of that execution
waits until ComfyUI runs nothing and the outputs of what ran are stored. If ComfyUI dies again, the file is
the cause.
"""

from __future__ import annotations

import time

CHECK_SECONDS = 0.5  # between checks whether ComfyUI runs anything
LONGEST_WAIT = 45.0  # seconds for that; then it is uploaded while something runs
TRIES = 3  # after so many tries it is blamed in any case


class FatalUploads:
    """The uploads to one ComfyUI. Shared by the slots' threads."""

    def __init__(self) -> None:
        self._suspects: set[str] = set()  # executions
        self._killed_at: float | None = None

    def record_death(self, execution_id: str) -> None:
        """ComfyUI died during an upload of this execution."""
        self._killed_at = time.monotonic()
        self._suspects.add(execution_id)

    def is_suspect(self, execution_id: str) -> bool:
        return execution_id in self._suspects

    def clear(self, execution_id: str) -> None:
        self._suspects.discard(execution_id)

    def killed_since(self, moment: float) -> bool:
        """Whether ComfyUI has died during an upload since monotonic `moment`."""
        return self._killed_at is not None and self._killed_at >= moment
