"""One reader of live events: what it has yet to get, bounded."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from uuid import UUID

from accounts.credentials import Credential

from .event_reader import LINES_AT_ONCE, Event

# Numbered events that wait for a reader; one that is slower is dropped, and comes back when it can.
CAPACITY = 2 * LINES_AT_ONCE
MOST_PICTURE_BYTES = 48 * 1024 * 1024  # of pictures (base64) that wait for one websocket; more are dropped


class Reader:
    """Belongs to the event loop's thread. `execution_id` None: all of the user's executions.

    It is closed when `credential`, if there is one, is no longer good.
    """

    __slots__ = (
        "_newest", "_numbered", "_ready", "closed", "credential", "execution_id", "last_event_id", "previews",
        "seen", "user_id",
    )  # fmt: skip
    messages = False  # whether it gets what ComfyUI says, as `comfyui` events

    def __init__(
        self,
        *,
        user_id: int,
        execution_id: UUID | None = None,
        last_event_id: int | None = None,
        previews: bool = False,
        credential: Credential | None = None,
    ) -> None:
        self.user_id = user_id
        self.execution_id = execution_id
        self.last_event_id = last_event_id
        self.previews = previews
        self.credential = credential
        self.closed = False
        self.seen: dict[UUID, int] = {}  # execution -> the last of its lines that came to us
        self._numbered: deque[Event] = deque()
        self._newest: dict[tuple[str, UUID], Event] = {}
        self._ready = asyncio.Event()

    def put(self, event: Event) -> None:
        """Never waits. An event that came already is left out."""
        if self.closed:
            return
        if event.id is None:
            self._newest[event.name, event.execution_id] = event
        elif event.id > self.seen.get(event.execution_id, 0):
            self.seen[event.execution_id] = event.id
            self._numbered.append(event)
            if event.ends:
                self._forget_progress(event.execution_id)
            if len(self._numbered) > CAPACITY:
                self.close()
        self._ready.set()

    def _forget_progress(self, execution_id: UUID) -> None:
        for key in [key for key in self._newest if key[1] == execution_id]:
            del self._newest[key]

    def caught_up(self, cursors: Mapping[UUID, int]) -> None:
        """These lines were read beside the queue: what waits in it up to there came already."""
        self._numbered = deque(
            event for event in self._numbered if (event.id or 0) > cursors.get(event.execution_id, 0)
        )
        for execution_id, last in cursors.items():
            self.seen[execution_id] = max(last, self.seen.get(execution_id, 0))

    def take(self) -> list[Event]:
        """All that waits: numbered ones first, in order, then the newest of the others."""
        found = [*self._numbered, *self._newest.values()]
        self._numbered.clear()
        self._newest.clear()
        self._ready.clear()
        return found

    async def wait(self, seconds: float) -> bool:
        """Until something waits or it is closed; False when nothing came."""
        if self._ready.is_set():
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._ready.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        self.closed = True
        self._ready.set()


class MessageReader(Reader):
    """For a websocket in ComfyUI's protocol: what ComfyUI says of all executions of a user, and their changes
    of status, in the order in which they came.
    """

    __slots__ = ("_picture_bytes", "overflowed")
    messages = True

    def __init__(self, *, user_id: int, credential: Credential) -> None:
        super().__init__(user_id=user_id, credential=credential)
        self._picture_bytes = 0
        self.overflowed = False

    def put(self, event: Event) -> None:
        if event.name == "comfyui":
            picture = len(event.data["message"].get("bytes", ""))
            if self._picture_bytes + picture > MOST_PICTURE_BYTES:
                return
            self._picture_bytes += picture
            self._numbered.append(event)
            if len(self._numbered) > CAPACITY:
                self.overflowed = True
                self.close()
            self._ready.set()
        elif event.id is not None:
            if event.name == "status":
                super().put(event)
            else:
                self.seen[event.execution_id] = max(event.id, self.seen.get(event.execution_id, 0))

    def take(self) -> list[Event]:
        self._picture_bytes = 0
        return super().take()


class Ending:
    """Waits for the end of one execution and for nothing else. Belongs to the event loop's thread."""

    __slots__ = ("_ready", "closed", "execution_id", "happened")

    def __init__(self, execution_id: UUID) -> None:
        self.execution_id = execution_id
        self.happened = False
        self.closed = False
        self._ready = asyncio.Event()

    def happens(self) -> None:
        self.happened = True
        self._ready.set()

    def close(self) -> None:
        self.closed = True
        self._ready.set()

    async def wait(self, seconds: float) -> bool:
        """Whether it has ended within so many seconds; False also once it is closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ready.wait()
        return self.happened and not self.closed
