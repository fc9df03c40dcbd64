"""A client of the stream of all its executions that reconnects whenever the stream breaks.

It must receive every end exactly once, or a `gap` that reports missing events.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict

import requests

from script.harness.sse import Event, EventStream
from script.harness.stack import Person

TERMINAL = ("completed", "failed", "cancelled")
SILENT_SECONDS = 20.0  # heartbeats arrive every 15 s: after this long without one, the connection is dead


class Listener(threading.Thread):
    """`ends`: the ids of the terminal status events of each execution, without duplicates."""

    def __init__(self, person: Person, *, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.ends: dict[str, set[int]] = defaultdict(set)
        self.gaps = 0
        self.connections = 0
        self.complaints: list[str] = []
        self.stop = threading.Event()
        self.connected = threading.Event()
        self._person = person
        self._last: int | None = None

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                self._read_once()
            except requests.RequestException:
                pass  # the web process is down
            self.stop.wait(1.0)

    def _read_once(self) -> None:
        headers = {"Authorization": str(self._person.session.headers["Authorization"])}
        if self._last is not None:
            headers["Last-Event-ID"] = str(self._last)
        with EventStream(f"{self._person.url}/workflows/events", headers=headers) as stream:
            if stream.status != 200:
                return
            self.connections += 1
            self.connected.set()
            numbers: Counter[int] = Counter()
            while not self.stop.is_set():
                event = self._next(stream)
                if event is None:
                    return
                self._note(event, numbers)

    def _next(self, stream: EventStream) -> Event | None:
        while not self.stop.is_set():
            comments = stream.comments
            try:
                return stream.next(seconds=SILENT_SECONDS)
            except AssertionError:
                if stream.comments == comments:
                    return None
        return None

    def _note(self, event: Event, numbers: Counter[int]) -> None:
        if event.name == "gap":
            self.gaps += 1
        if event.id is None:
            return
        self._last = event.id
        numbers[event.id] += 1
        if numbers[event.id] == 2:
            self.complaints.append(f"{self.name} got event {event.id} twice on one connection")
        if event.name == "status" and event.data["status"] in TERMINAL:
            self.ends[str(event.data["execution_id"])].add(event.id)
