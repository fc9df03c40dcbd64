"""One reader of live events, with a bounded queue of undelivered events."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from accounts.credentials import Credential

from .event_reader import LINES_AT_ONCE, Event

# Numbered events queued per reader; a slower reader is disconnected and can reconnect.
CAPACITY = 2 * LINES_AT_ONCE
MAX_IMAGE_BYTES = 48 * 1024 * 1024  # of images (base64) queued per websocket; more are dropped


class Reader:
    """Belongs to the event loop's thread. `execution_id` None: all of the user's executions.

    Closed when `credential`, if given, is no longer valid. `opened_at`, by the database's clock: a reader of
    all executions does not receive what ended before that, except while it catches up.
    """

    __slots__ = (
        "_newest", "_numbered", "_ready", "closed", "credential", "execution_id", "last_event_id",
        "opened_at", "previews", "seen", "user_id",
    )  # fmt: skip
    messages = False  # whether it receives ComfyUI's own messages, as `comfyui` events

    def __init__(
        self,
        *,
        user_id: int,
        execution_id: UUID | None = None,
        last_event_id: int | None = None,
        previews: bool = False,
        credential: Credential | None = None,
        opened_at: datetime | None = None,
    ) -> None:
        self.user_id = user_id
        self.execution_id = execution_id
        self.last_event_id = last_event_id
        self.previews = previews
        self.credential = credential
        self.opened_at = opened_at
        self.closed = False
        self.seen: dict[UUID, int] = {}  # execution -> id of its last line received
        self._numbered: deque[Event] = deque()
        self._newest: dict[tuple[str, UUID], Event] = {}
        self._ready = asyncio.Event()

    def reports(self, execution_id: UUID, *, ended_at: datetime | None) -> bool:
        """Whether a reader of all executions receives the events of one that ended then, or has not ended.

        An end may be committed after the stream was opened although `ended_at` is earlier: then the execution
        was alive when the reader caught up, and is in `seen`.
        """
        if ended_at is None or self.opened_at is None:
            return True
        return ended_at >= self.opened_at or execution_id in self.seen

    def put(self, event: Event) -> None:
        """Never blocks. Drops an event that was already received."""
        if self.closed:
            return
        if event.id is None:
            self._newest[event.name, event.execution_id] = event
        elif event.id > self.seen.get(event.execution_id, 0):
            self.seen[event.execution_id] = event.id
            self._numbered.append(event)
            if event.name == "status":  # newer than the unnumbered one, but taken before it
                self._newest.pop((event.name, event.execution_id), None)
            if event.ends:
                self._forget_progress(event.execution_id)
            if len(self._numbered) > CAPACITY:
                self.close()
        self._ready.set()

    def _forget_progress(self, execution_id: UUID) -> None:
        for key in [key for key in self._newest if key[1] == execution_id]:
            del self._newest[key]

    def caught_up(self, cursors: Mapping[UUID, int]) -> None:
        """These lines were read separately: drop queued events up to the cursors."""
        self._numbered = deque(
            event for event in self._numbered if (event.id or 0) > cursors.get(event.execution_id, 0)
        )
        for execution_id, last in cursors.items():
            self.seen[execution_id] = max(last, self.seen.get(execution_id, 0))

    def take(self) -> list[Event]:
        """Everything queued: numbered events first, in order, then the newest of the others."""
        found = [*self._numbered, *self._newest.values()]
        self._numbered.clear()
        self._newest.clear()
        self._ready.clear()
        return found

    async def wait(self, seconds: float) -> bool:
        """Wait until something is queued or the reader is closed; False on timeout."""
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
    """For a websocket in ComfyUI's protocol: ComfyUI's messages for all executions of a user, and their
    status changes, in order of arrival.
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
            if self._picture_bytes + picture > MAX_IMAGE_BYTES:
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


class EndWaiter:
    """Waits for the end of one execution while `credential` is valid. Belongs to the event loop's thread."""

    __slots__ = ("_ready", "closed", "credential", "ended", "execution_id", "revoked", "rows")

    def __init__(self, execution_id: UUID, credential: Credential) -> None:
        self.execution_id = execution_id
        self.credential = credential
        self.revoked = False
        self.ended = False
        self.closed = False
        self.rows: str | None = None  # the result as in the message, see `end_message.unpack`
        self._ready = asyncio.Event()

    def signal_end(self, rows: str | None = None) -> None:
        self.ended = True
        self.rows = rows
        self._ready.set()

    def close(self) -> None:
        self.closed = True
        self._ready.set()

    async def wait(self, seconds: float) -> bool:
        """Whether the execution ended within `seconds`; False also once closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ready.wait()
        return self.ended and not self.closed

    def revoke(self) -> None:
        self.revoked = True
        self.close()
