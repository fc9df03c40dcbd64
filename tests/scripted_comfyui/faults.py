"""What the scripted ComfyUI records of each request, and how it fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    """Something that was asked of it. `body` is the JSON that came, None where none did."""

    method: str
    path: str
    body: Any
    headers: Mapping[str, str]
    peer: tuple[str, int]  # the connection's other end
    at: float  # time.monotonic()
    query: str


@dataclass
class Faults:
    """Set these at any time, from any thread. Paths are without query: "/prompt"."""

    refuse: dict[str, Any] | None = None  # the body of a 400 for every prompt
    error_after_accepting: int = 0  # so many prompts are queued, and answered with 500
    no_answer_after_accepting: int = 0  # so many prompts are queued, and the connection is cut
    status: dict[str, int] = field(default_factory=dict)  # path -> what it answers
    body: dict[str, bytes] = field(default_factory=dict)  # path -> what it answers, with 200
    proxy: int | None = None  # what stands before it answers everything but /ws itself: this, and a page
    page: dict[str, int] = field(default_factory=dict)  # path -> the proxy answers this, and a page of HTML
    proxy_sockets: int | None = None  # it answers this to new websockets
    truncate: set[str] = field(default_factory=set)  # answers to these paths break off after half of them
    shorten: set[str] = field(default_factory=set)  # half of the answer, as if that were all of it
    late_history: float = 0.0  # seconds from the event of the end to its place in history
    delay: dict[str, float] = field(default_factory=dict)  # path -> seconds before it is looked at
    hang: set[str] = field(default_factory=set)  # paths that never answer
    hang_on: set[str] = field(default_factory=set)  # texts in addresses with their queries: the same
    silent: bool = False  # sockets stay open, and nothing is sent on them
    deaf: bool = False  # sockets opened from now on answer no ping, as one whose peer has gone
    cut_files: int | None = None  # the connection ends after so many bytes of a file
    broken_files: set[str] = field(default_factory=set)  # names for which `/view` drops the connection
