"""ComfyUI's HTTP and websocket protocol, typed. It needs `requests` and `websocket-client`, nothing else.

`Client` sends requests, `Session` receives events. Tests have a scripted ComfyUI in
`tests.scripted_comfyui`.
"""

from __future__ import annotations

from comfyui import events
from comfyui.client import Client, FileStream
from comfyui.errors import ComfyUIError, NotFound, Refused, Unreachable
from comfyui.recording import Recording
from comfyui.session import Session, Subscription
from comfyui.types import (
    Device,
    ExecutionError,
    History,
    InputError,
    NodeErrors,
    OutputFile,
    QueueItem,
    QueueState,
    Submitted,
    SystemStats,
)

__all__ = [
    "Client",
    "ComfyUIError",
    "Device",
    "ExecutionError",
    "FileStream",
    "History",
    "InputError",
    "NodeErrors",
    "NotFound",
    "OutputFile",
    "QueueItem",
    "QueueState",
    "Recording",
    "Refused",
    "Session",
    "Submitted",
    "Subscription",
    "SystemStats",
    "Unreachable",
    "events",
]
