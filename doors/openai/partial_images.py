"""Partial images of a stream: a selection of the previews that ComfyUI sends during a run."""

from __future__ import annotations

import time
from collections import defaultdict
from uuid import UUID

from workflows.streaming.event_reader import Event

from . import answers

JPEG = "data:image/jpeg;base64,"


class Partial:
    """Spreads up to `most` previews of each execution over its progress: the first is sent at once, the
    others at equal steps of the progress."""

    def __init__(self, wanted: answers.ImageOptions, *, most: int) -> None:
        self._wanted = wanted
        self._most = most
        self._sent: dict[UUID, int] = defaultdict(int)
        self._percentages: dict[UUID, float] = defaultdict(float)

    def encode(self, event: Event) -> bytes:
        """An event for the client, or nothing."""
        id_ = event.execution_id
        if event.name == "progress":
            self._percentages[id_] = event.data["percentage"]
        if event.name != "preview" or not event.data["image"].startswith(JPEG):
            return b""
        index = self._sent[id_]
        if index >= self._most or self._percentages[id_] < 100 * index / self._most:
            return b""
        self._sent[id_] += 1
        shown = {
            **self._wanted.about,
            "created_at": int(time.time()),
            "output_format": "jpeg",
            "partial_image_index": index,
            "b64_json": event.data["image"].removeprefix(JPEG),
        }
        return answers.encoded(f"{self._wanted.event}.partial_image", shown)
