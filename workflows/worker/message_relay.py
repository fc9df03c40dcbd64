"""Relays ComfyUI's messages of one run to its user's websockets in the web processes.

Only messages about the run in progress: the end and the outputs are published once they are stored.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import Any

from comfyui import events
from workflows import notify
from workflows.queue.claims import Claim

ASK_SECONDS = 1.0  # interval of checks whether a websocket is open
JPEG_SECONDS = 0.1  # between JPEG previews; PNGs are results (SaveImageWebsocket) and are all relayed
MAX_PICTURE_BYTES = 16 * 1024 * 1024
MAX_USERS = 1000  # whose answers are kept

# For each user: whether any of the user's websockets was open, and when that was checked (monotonic seconds).
_checked: dict[int, tuple[bool, float]] = {}


class MessageRelay:
    """`handle` receives every event and publishes what a ComfyUI client would get, while one is connected.

    An execution that names the client for its messages checks for one when it starts. The others, of which
    clients only get the progress, use what was found within ASK_SECONDS: they may all be very short.
    """

    def __init__(self, claim: Claim) -> None:
        self._id, self._user_id = claim.execution_id, claim.user_id
        given = (claim.extras.get("extra_data") or {}).get("client_id")
        self._client_id = given if isinstance(given, str) else None
        self._must_ask = self._client_id is not None
        self._pictured_at = 0.0

    def handle(self, event: events.Event) -> None:
        if not self._is_wanted():
            return
        message = self._picture(event) if isinstance(event, events.Preview) else as_message(event)
        if message is not None:
            notify.announce_comfyui_message(
                self._user_id, self._id, {"client_id": self._client_id, "message": message}
            )

    def _is_wanted(self) -> bool:
        now = time.monotonic()
        wanted, asked_at = _checked.get(self._user_id, (False, None))
        if self._must_ask or asked_at is None or now - asked_at >= ASK_SECONDS:
            self._must_ask = False
            wanted = notify.somebody_wants_comfyui_messages(self._user_id)
            if len(_checked) >= MAX_USERS:
                _checked.clear()
            _checked[self._user_id] = (wanted, now)
        return wanted

    def _picture(self, preview: events.Preview) -> dict[str, Any] | None:
        now = time.monotonic()
        too_soon = preview.image_type == "image/jpeg" and now - self._pictured_at < JPEG_SECONDS
        if too_soon or len(preview.data) > MAX_PICTURE_BYTES:
            return None
        self._pictured_at = now
        data = {
            "node_id": preview.node_id,
            "prompt_id": str(self._id),
            "display_node_id": preview.display_node_id or preview.node_id,
            "parent_node_id": preview.parent_node_id,
            "real_node_id": preview.real_node_id or preview.node_id,
            "image_type": preview.image_type,
        }
        return {"type": "picture", "data": data, "bytes": base64.b64encode(preview.data).decode()}


def as_message(event: events.Event) -> dict[str, Any] | None:
    """`{"type", "data"}` as ComfyUI sends it; None for events that clients get at the end, or never."""
    match event:
        case events.Started(prompt_id):
            return _message("execution_start", prompt_id=prompt_id, timestamp=_now())
        case events.Cached(prompt_id, nodes):
            return _message("execution_cached", nodes=nodes, prompt_id=prompt_id, timestamp=_now())
        case events.Executing(str(prompt_id), str(node_id), display_node):
            return _message(
                "executing", node=node_id, display_node=display_node or node_id, prompt_id=prompt_id
            )
        case events.Progress(prompt_id, node_id, value, maximum):
            return _message(
                "progress", value=_plain(value), max=_plain(maximum), prompt_id=prompt_id, node=node_id
            )
        case events.ProgressState(prompt_id, nodes):
            return _message("progress_state", prompt_id=prompt_id, nodes=_states(prompt_id, nodes))
        case events.ProgressText(node_id, text):
            return _message("progress_text", node=node_id, text=text)
    return None


def _message(kind: str, **data: Any) -> dict[str, Any]:
    return {"type": kind, "data": data}


def _states(prompt_id: str, nodes: Mapping[str, events.NodeProgress]) -> dict[str, Any]:
    return {
        node_id: {
            "value": each.value,
            "max": each.max,
            "state": each.state,
            "node_id": node_id,
            "prompt_id": prompt_id,
            "display_node_id": each.display_node_id or node_id,
            "parent_node_id": each.parent_node_id,
            "real_node_id": each.real_node_id or node_id,
        }
        for node_id, each in nodes.items()
    }


def _plain(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def _now() -> int:
    return int(time.time() * 1000)
