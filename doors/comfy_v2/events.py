"""A job's live stream, as Comfy API events. It has no cursor: a stream always starts from the beginning."""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.utils.encoders import JSONEncoder

from comfyserve.api.rendering import AnyAccept
from workflows.api import stream_views
from workflows.api.views import user_of
from workflows.models import Status
from workflows.presentation import selectors
from workflows.streaming.event_reader import Event
from workflows.streaming.subscriber import Reader

from . import representations
from .errors import ComfyView


class EventsView(ComfyView):
    content_negotiation_class = AnyAccept

    def get(self, request: Request, execution_id: str) -> HttpResponse:
        execution = selectors.execution_of(user=user_of(request), execution_id=execution_id)
        reader = Reader(user_id=execution.user_id, execution_id=execution.id, last_event_id=0, previews=True)
        total, _ = representations.nodes(execution.id)
        return stream_views.following(request, reader, encode=Encoder(total), end=b"")


class Encoder:
    """Converts our events to the Comfy API's, for one stream. Counts the nodes that have started."""

    def __init__(self, nodes_total: int) -> None:
        self._total = nodes_total
        self._begun: set[str] = set()

    def __call__(self, event: Event, base: str) -> bytes:
        """The event's bytes; empty if the Comfy API has no such event."""
        if event.name == "node":
            self._begun.add(str(event.data.get("node_id")))
            return b""
        name, data = event.name, self._data(event, base)
        if data is None:
            return b""
        text = json.dumps(data, cls=JSONEncoder, separators=(",", ":"))
        return f"event: {name}\ndata: {text}\n\n".encode()

    def _data(self, event: Event, base: str) -> dict[str, Any] | None:
        data = event.data
        match event.name:
            case "status" if "status" in data:
                status = representations.STATUSES[Status(data["status"])]
                return {"status": status, "queue_position": data.get("queue_position")}
            case "progress":
                return representations.progress(
                    data.get("percentage") or 0, data.get("current_node"), self._total, len(self._begun)
                )
            case "preview":
                content_type, _, encoded = str(data["image"]).removeprefix("data:").partition(";base64,")
                return {"node_id": data["node_id"], "content_type": content_type, "data_base64": encoded}
            case "log":
                return {"level": str(data["level"]).lower(), "message": data["message"]}
            case "output" if event.output is not None and representations.has_content(event.output):
                return representations.output(event.output, base=base)
        return None
