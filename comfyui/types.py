"""Typed ComfyUI responses: small frozen values, with ComfyUI's own terms kept.

Times are milliseconds since the epoch as ComfyUI gives them, sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Prompt = Mapping[str, Any]  # node id -> {"class_type", "inputs"}: ComfyUI's "API format"
Outcome = Literal["success", "error", "interrupted"]
Whereabouts = Literal["running", "queued", "ended", "unknown"]
Folder = Literal["input", "output", "temp"]


@dataclass(frozen=True)
class Device:
    name: str
    type: str  # "cuda", "cpu", "mps", ...
    index: int | None
    vram_total: int
    vram_free: int
    torch_vram_total: int
    torch_vram_free: int


@dataclass(frozen=True)
class SystemStats:
    version: str  # ComfyUI's version; "" if not reported (before 0.3)
    python: str
    devices: list[Device]
    ram_total: int
    ram_free: int
    argv: list[str]
    pytorch: str = ""


@dataclass(frozen=True)
class InputError:
    """One error of one node.

    `details` and `extra_info` may hold server paths and tracebacks: not for the public.
    """

    type: str  # "value_bigger_than_max", "value_not_in_list", ...
    message: str
    details: str
    input_name: str | None
    extra_info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeErrors:
    node_id: str
    class_type: str
    errors: list[InputError]
    dependent_outputs: list[str]  # the output nodes that cannot run because of it


@dataclass(frozen=True)
class Submitted:
    """ComfyUI accepted the prompt. With `node_errors` it accepted part of it: the `dependent_outputs`
    listed there are left out, the rest runs, and history reports success.
    """

    prompt_id: str
    number: float
    node_errors: dict[str, NodeErrors]


@dataclass(frozen=True)
class QueueItem:
    number: float
    prompt_id: str
    client_id: str | None
    prompt: dict[str, Any]
    output_nodes: list[str] = field(default_factory=list)
    created_ms: int | None = None


@dataclass(frozen=True)
class QueueState:
    running: list[QueueItem]
    pending: list[QueueItem]  # in the order in which they will run


@dataclass(frozen=True)
class OutputFile:
    """A file as served by `/view`. `key` is ComfyUI's own: videos are under "images" too."""

    filename: str
    subfolder: str
    type: str  # "output", "temp" or "input"
    node_id: str = ""
    key: str = ""  # "images", "gifs", "audio", "3d", "latents", ...
    animated: bool = False


@dataclass(frozen=True)
class ExecutionError:
    """A node's exception. Message and traceback hold server paths; `current_inputs`, which ComfyUI also
    sends, holds whole tensors and graphs and is omitted."""

    node_id: str
    node_type: str
    exception_type: str
    message: str
    traceback: list[str]
    executed: list[str]  # nodes that were done before


@dataclass(frozen=True)
class History:
    """How a prompt ended. It exists only for prompts that ended; one deleted while pending has none."""

    prompt_id: str
    outcome: Outcome
    completed: bool
    outputs: dict[str, dict[str, Any]]  # by node id, as ComfyUI wrote it
    files: list[OutputFile]
    texts: list[tuple[str, str]]  # (node id, text)
    error: ExecutionError | None  # set when outcome is "error"
    output_nodes: list[str]
    started_ms: int | None
    ended_ms: int | None
    messages: list[tuple[str, dict[str, Any]]]
