"""A client of server-sent events, written independently of the service."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import requests


@dataclass(frozen=True)
class Event:
    name: str
    data: dict[str, Any]
    id: int | None
    at: float  # monotonic seconds


class EventStream:
    """The events of one connection, read in a thread. `ended` when the server closed it."""

    def __init__(self, url: str, *, method: str = "GET", **options: Any) -> None:
        self._response = requests.request(method, url, stream=True, timeout=(10, 60), **options)
        self.status = self._response.status_code
        self.headers = self._response.headers
        self.seen: list[Event] = []
        self.comments = 0
        self._events: queue.Queue[Event | None] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        try:
            for line in self._response.iter_lines(chunk_size=None, decode_unicode=True):
                if line == "":
                    if "data" in fields:
                        self._put(fields)
                    fields = {}
                elif line.startswith(":"):
                    self.comments += 1
                else:
                    name, _, value = line.partition(":")
                    fields[name] = value.removeprefix(" ")
        except (requests.RequestException, AttributeError, ValueError):
            pass  # closed, by the server or by us
        self._events.put(None)

    def _put(self, fields: dict[str, str]) -> None:
        number = int(fields["id"]) if "id" in fields else None
        name = fields.get("event", "message")
        self._events.put(Event(name, json.loads(fields["data"]), number, time.monotonic()))

    def next(self, *, seconds: float = 40) -> Event | None:
        """The next event; None at the end of the stream. AssertionError on timeout."""
        try:
            event = self._events.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"no event for {seconds} s; seen: {self.seen}") from None
        if event is not None:
            self.seen.append(event)
        return event

    def until(self, name: str, *, seconds: float = 40, **data: Any) -> Event:
        """The next event with this name and data."""
        end = time.monotonic() + seconds
        while True:
            event = self.next(seconds=max(0.1, end - time.monotonic()))
            assert event is not None, f"the stream ended before {name} {data}; seen: {self.seen}"
            if event.name == name and data.items() <= event.data.items():
                return event

    def rest(self, *, seconds: float = 30) -> list[Event]:
        """All events, once the server has closed the stream."""
        end = time.monotonic() + seconds
        while self.next(seconds=max(0.1, end - time.monotonic())) is not None:
            pass
        return self.seen

    def close(self) -> None:
        try:
            self._response.raw.shutdown()  # a plain close would wait for the reading thread
        except (OSError, ValueError, RuntimeError):
            pass  # already closed
        self._thread.join(5)
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def follow(
    person: Any, execution_id: str | None = None, *, query: str = "", last: int | None = None
) -> EventStream:
    """A stream with the user's own token."""
    path = f"/workflows/{execution_id}/events" if execution_id else "/workflows/events"
    headers = {"Authorization": person.session.headers["Authorization"], "Accept": "text/event-stream"}
    if last is not None:
        headers["Last-Event-ID"] = str(last)
    return EventStream(person.url + path + query, headers=headers)


def submit(
    person: Any, body: dict[str, Any], path: str = "/workflows/execute", **headers: str
) -> EventStream:
    """A submission whose response is the stream."""
    token = person.session.headers["Authorization"]
    headers = {"Authorization": token, "Accept": "text/event-stream", **headers}
    return EventStream(person.url + path, method="POST", json=body, headers=headers)


def statuses(events: Iterable[Event]) -> list[str]:
    """What the numbered `status` events say, in their order."""
    return [event.data["status"] for event in events if event.name == "status" and event.id is not None]
