"""A bounded queue of events between the session's thread and one subscriber."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from comfyui import events
from comfyui.events import Event

CAPACITY = 256  # events
# Of these only the newest matters, so a slow subscriber gets one of each kind and node.
REPLACEABLE = (events.Progress, events.ProgressState, events.Preview, events.ProgressText)
# Never dropped; there are few of them.
DECISIVE = (
    events.Started,
    events.Succeeded,
    events.Failed,
    events.Interrupted,
    events.Ended,
    events.Connected,
    events.Disconnected,
)


class Subscription:
    """The events of one prompt. One thread reads; leaving the `with` block ends it.

    When it is full, progress and previews are dropped first, then the oldest of the others, except those that
    report how a prompt ends. `dropped` counts the others: if it is above zero, history has more.
    """

    def __init__(
        self, prompt_id: str, *, on_close: Callable[[Subscription], None], capacity: int = CAPACITY
    ) -> None:
        self.prompt_id = prompt_id
        self.dropped = 0
        self._on_close = on_close
        self._capacity = capacity
        self._waiting: deque[Event] = deque()
        self._ready = threading.Condition(threading.Lock())
        self._woken = False

    def get(self, timeout: float | None = None) -> Event | None:
        """The next event, or None if there was none for `timeout` seconds, or `wake` was called."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._ready:
            while not self._waiting and not self._woken:
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    return None
                self._ready.wait(remaining)
            if self._waiting:
                return self._waiting.popleft()
            self._woken = False
            return None

    def wake(self) -> None:
        """Make the reader's `get` return None once the queue is empty, now or at its next call."""
        with self._ready:
            self._woken = True
            self._ready.notify()

    def put(self, event: Event) -> None:
        """Never blocks: the session's thread serves other subscribers too."""
        with self._ready:
            if isinstance(event, REPLACEABLE):
                self._drop_older_of(event)
            if len(self._waiting) >= self._capacity:
                self._make_room()
            self._waiting.append(event)
            self._ready.notify()

    def close(self) -> None:
        self._on_close(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _drop_older_of(self, event: Event) -> None:
        """Only among the newest: an event before one of another kind keeps its place in the order."""
        for index in range(len(self._waiting) - 1, -1, -1):
            waiting = self._waiting[index]
            if not isinstance(waiting, REPLACEABLE):
                return
            if _same_thing(waiting, event):
                del self._waiting[index]
                return

    def _make_room(self) -> None:
        index = self._first(lambda event: isinstance(event, REPLACEABLE))
        if index is None:
            index = self._first(lambda event: not isinstance(event, DECISIVE))
            self.dropped += index is not None
        # Only decisive ones, from hundreds of reconnections: the oldest adds nothing.
        del self._waiting[index or 0]

    def _first(self, fits: Callable[[Event], bool]) -> int | None:
        return next((index for index, event in enumerate(self._waiting) if fits(event)), None)


def _same_thing(one: Event, other: Event) -> bool:
    if isinstance(one, events.Preview) and one.image_type == "image/png":
        return False  # a result: SaveImageWebsocket sends its pictures this way
    return type(one) is type(other) and getattr(one, "node_id", None) == getattr(other, "node_id", None)
