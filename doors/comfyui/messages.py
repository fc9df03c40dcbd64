"""The websocket's messages in ComfyUI's format: text is JSON `{"type", "data"}`, images are binary."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models.functions import Now

from accounts.models import User
from workflows.models import ALIVE, Execution, Status
from workflows.presentation import selectors

from . import representations

PREVIEW, TEXT, PREVIEW_WITH_METADATA = 1, 3, 4  # the kinds of binary message
IMAGE_TYPES = {"image/jpeg": 1, "image/png": 2}
# Sent to every websocket of the user for a prompt submitted without a client id. For all other prompts only
# the websocket of the client id gets messages.
BROADCAST = ("progress", "progress_state", "picture")


def message(kind: str, data: Mapping[str, Any]) -> str:
    return json.dumps({"type": kind, "data": data}, default=str)


def status(remaining: int, *, sid: str | None = None) -> str:
    data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": remaining}}}
    return message("status", data | ({"sid": sid} if sid is not None else {}))


def relayed(given: Mapping[str, Any], *, with_metadata: bool) -> str | bytes:
    """A message that a GPU worker relayed from its ComfyUI."""
    kind, data = given["type"], given["data"]
    if kind == "progress_text":
        node, text = str(data["node"]).encode(), str(data["text"]).encode()
        return struct.pack(">II", TEXT, len(node)) + node + text
    if kind != "picture":
        return message(kind, data)
    picture = base64.b64decode(given["bytes"])
    if with_metadata:
        head = json.dumps(data).encode()
        return struct.pack(">II", PREVIEW_WITH_METADATA, len(head)) + head + picture
    return struct.pack(">II", PREVIEW, IMAGE_TYPES.get(data["image_type"], 1)) + picture


# -- read from the database ------------------------------------------------------------------------------
@dataclass(frozen=True)
class InitialState:
    """A user's prompts when a websocket opens. `alive` and `now` identify what ends after that."""

    remaining: int
    alive: frozenset[UUID]
    now: datetime
    node: str | None  # running for this client id


def initial_state(user_id: int, client_id: str) -> InitialState:
    now = User.objects.filter(id=user_id).values_list(Now(), flat=True)[0]
    mine = Execution.objects.filter(user_id=user_id, status__in=ALIVE)
    alive = frozenset(mine.values_list("id", flat=True))
    running = mine.filter(status=Status.RUNNING, graph__extras__extra_data__client_id=client_id)
    node = running.order_by("started_at").values_list("current_node", flat=True).first()
    return InitialState(len(alive), alive, now, node)


def remaining(user_id: int) -> int:
    return Execution.objects.filter(user_id=user_id, status__in=ALIVE).count()


@dataclass(frozen=True)
class End:
    """How an execution ended. `first` is its `execution_start`, `outputs` are its `executed` messages, and
    `last` says how it ended."""

    client_id: str | None
    completed_at: datetime | None
    first: str
    outputs: list[str]
    last: str


def end_of(execution_id: UUID) -> End | None:
    """None if the execution was deleted or has not ended."""
    execution = Execution.objects.select_related("graph").filter(id=execution_id).first()
    if execution is None or execution.status in ALIVE:
        return None
    details = execution.graph.error_details or {}
    first = message(*representations.first_message(execution))
    last = message(*representations.last_message(execution, details))
    made = representations.outputs(selectors.outputs([execution_id])[execution_id])
    executed = [
        message("executed", {"node": node, "display_node": node, "output": shown, "prompt_id": execution_id})
        for node, shown in made.items()
    ]
    given = (execution.graph.extras.get("extra_data") or {}).get("client_id")
    client_id = given if isinstance(given, str) else None
    return End(client_id, execution.completed_at, first, executed, last)
