"""ComfyUI's websocket messages, one frozen dataclass each.

The order within a run: Started, Cached, then for each node ProgressState, Executing, any number of Progress
and Preview, and for an output node Executed; then Succeeded, Failed or Interrupted; then Ended. Any of them
may be lost: history is authoritative, events are hints to read it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from comfyui import _parsing
from comfyui.types import ExecutionError

PREVIEW, TEXT, PREVIEW_WITH_METADATA = 1, 3, 4  # the kinds of binary message
IMAGE_TYPES = {1: "image/jpeg", 2: "image/png"}


@dataclass(frozen=True)
class Started:
    prompt_id: str
    timestamp_ms: int | None = None


@dataclass(frozen=True)
class Cached:
    """Nodes with cached results: they will not run."""

    prompt_id: str
    nodes: list[str]


@dataclass(frozen=True)
class Executing:
    """A node starts. After connecting during a run ComfyUI reports the node without the prompt.

    `display_node` is the node of the submitted graph that stands for one that a node expanded to.
    """

    prompt_id: str | None
    node_id: str | None
    display_node: str | None = None


@dataclass(frozen=True)
class Progress:
    """Progress of one node, for nodes that report steps."""

    prompt_id: str
    node_id: str
    value: float
    max: float


@dataclass(frozen=True)
class NodeProgress:
    value: float
    max: float
    state: str  # "running", "finished", "pending", "error"
    display_node_id: str | None = None
    parent_node_id: str | None = None
    real_node_id: str | None = None


@dataclass(frozen=True)
class ProgressState:
    """All nodes started so far. Cached nodes are not among them."""

    prompt_id: str
    nodes: dict[str, NodeProgress]


@dataclass(frozen=True)
class Executed:
    """An output node is done, or its result was cached; `output` is as in history."""

    prompt_id: str
    node_id: str
    output: dict[str, Any]
    display_node: str | None = None


@dataclass(frozen=True)
class Succeeded:
    """The last node is done; history is about to be written."""

    prompt_id: str
    timestamp_ms: int | None = None


@dataclass(frozen=True)
class Failed:
    prompt_id: str
    error: ExecutionError


@dataclass(frozen=True)
class Interrupted:
    prompt_id: str
    node_id: str


@dataclass(frozen=True)
class Ended:
    """Finished, with any outcome, and in history from now on."""

    prompt_id: str


@dataclass(frozen=True)
class Preview:
    """A preview of the result so far. The ids are None if ComfyUI did not negotiate metadata."""

    prompt_id: str | None
    node_id: str | None
    image_type: str
    data: bytes
    display_node_id: str | None = None
    parent_node_id: str | None = None
    real_node_id: str | None = None


@dataclass(frozen=True)
class ProgressText:
    """A status line of a running node. ComfyUI does not say for which prompt."""

    node_id: str
    text: str


@dataclass(frozen=True)
class QueueStatus:
    remaining: int


@dataclass(frozen=True)
class Connected:
    """ComfyUI has registered our socket: no event is missed from here on. Earlier ones may have been.
    `remaining`: the length of its queue, running prompts included; None if it does not say.
    """

    sid: str
    remaining: int | None = None


@dataclass(frozen=True)
class Disconnected:
    """The connection was lost; it is being reestablished."""


@dataclass(frozen=True)
class Unknown:
    """A message of a kind that we do not use, or an unparsable one."""

    type: str
    data: Any


Event = (
    Started
    | Cached
    | Executing
    | Progress
    | ProgressState
    | Executed
    | Succeeded
    | Failed
    | Interrupted
    | Ended
    | Preview
    | ProgressText
    | QueueStatus
    | Connected
    | Disconnected
    | Unknown
)


def parse(message: str | bytes) -> Event:
    """Parse a websocket message: text, or bytes for a binary one. Never raises; unreadable messages become
    `Unknown`.
    """
    try:
        return _parse_binary(message) if isinstance(message, bytes) else _parse_text(message)
    except (*_parsing.MALFORMED, struct.error, RecursionError):
        return Unknown(type="", data=message)


def _parse_text(message: str) -> Event:
    raw = _parsing.mapping(json.loads(message))
    kind, data = str(raw["type"]), raw.get("data")
    parser = PARSERS.get(kind)
    if parser is None:
        return Unknown(type=kind, data=data)
    try:
        return parser(_parsing.mapping(data))
    except _parsing.MALFORMED:
        return Unknown(type=kind, data=data)


def _status(data: dict[str, Any]) -> Event:
    if not data.get("sid"):
        return QueueStatus(remaining=_remaining(data))
    try:  # the first message on a connection: it counts as one even if its queue cannot be read
        remaining = _remaining(data)
    except _parsing.MALFORMED:
        remaining = None
    return Connected(sid=str(data["sid"]), remaining=remaining)


def _remaining(data: dict[str, Any]) -> int:
    return int(data["status"]["exec_info"]["queue_remaining"])


def _executing(data: dict[str, Any]) -> Event:
    prompt_id, node_id = data.get("prompt_id"), data.get("node")
    if node_id is None and prompt_id is not None:
        return Ended(prompt_id=str(prompt_id))
    return Executing(
        prompt_id=None if prompt_id is None else str(prompt_id),
        node_id=None if node_id is None else str(node_id),
        display_node=_text_or_none(data.get("display_node")),
    )


def _progress(data: dict[str, Any]) -> Event:
    return Progress(
        prompt_id=str(data["prompt_id"]),
        node_id=str(data["node"]),
        value=float(data["value"]),
        max=float(data["max"]),
    )


def _progress_state(data: dict[str, Any]) -> Event:
    nodes = {
        str(node_id): NodeProgress(
            value=float(each["value"]),
            max=float(each["max"]),
            state=str(each["state"]),
            **_places(each),
        )
        for node_id, each in data["nodes"].items()
    }
    return ProgressState(prompt_id=str(data["prompt_id"]), nodes=nodes)


def _executed(data: dict[str, Any]) -> Event:
    return Executed(
        prompt_id=str(data["prompt_id"]),
        node_id=str(data["node"]),
        output=_parsing.optional_mapping(data.get("output")),  # null for a cached node that had none
        display_node=_text_or_none(data.get("display_node")),
    )


def _places(data: dict[str, Any]) -> dict[str, str | None]:
    """The node of the submitted graph to which an expanded node belongs."""
    names = ("display_node_id", "parent_node_id", "real_node_id")
    return {name: _text_or_none(data.get(name)) for name in names}


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)


PARSERS: dict[str, Callable[[dict[str, Any]], Event]] = {
    "status": _status,
    "execution_start": lambda data: Started(str(data["prompt_id"]), _parsing.milliseconds(data)),
    "execution_cached": lambda data: Cached(
        prompt_id=str(data["prompt_id"]), nodes=_parsing.strings(data["nodes"])
    ),
    "executing": _executing,
    "progress": _progress,
    "progress_state": _progress_state,
    "executed": _executed,
    "execution_success": lambda data: Succeeded(str(data["prompt_id"]), _parsing.milliseconds(data)),
    "execution_error": lambda data: Failed(
        prompt_id=str(data["prompt_id"]), error=_parsing.execution_error(data)
    ),
    "execution_interrupted": lambda data: Interrupted(
        prompt_id=str(data["prompt_id"]), node_id=str(data.get("node_id") or "")
    ),
}


def _parse_binary(message: bytes) -> Event:
    (kind,) = struct.unpack_from(">I", message)
    if kind == PREVIEW:
        (image_type,) = struct.unpack_from(">I", message, 4)
        return Preview(
            prompt_id=None,
            node_id=None,
            image_type=IMAGE_TYPES.get(image_type, "application/octet-stream"),
            data=message[8:],
        )
    if kind == PREVIEW_WITH_METADATA:
        head, image = _split(message)
        metadata = _parsing.mapping(json.loads(head))
        return Preview(
            prompt_id=str(metadata["prompt_id"]),
            node_id=str(metadata["node_id"]),
            image_type=str(metadata.get("image_type") or "image/jpeg"),
            data=image,
            **_places(metadata),
        )
    if kind == TEXT:
        head, text = _split(message)
        return ProgressText(node_id=head.decode(), text=text.decode(errors="replace"))
    return Unknown(type=f"binary {kind}", data=message)


def _split(message: bytes) -> tuple[bytes, bytes]:
    """After the kind: a length (`>I`), that many bytes, then the rest."""
    (length,) = struct.unpack_from(">I", message, 4)
    if 8 + length > len(message):
        raise ValueError("shorter than it says")
    return message[8 : 8 + length], message[8 + length :]
