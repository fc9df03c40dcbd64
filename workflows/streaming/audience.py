"""The readers of one web process: which execution or user each one follows, and delivery to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from workflows import notify
from workflows.models import Status

from .event_reader import Event, Owned
from .subscriber import Reader


class Followed:
    """An execution with readers in this process. `cursor`: id of its last delivered log line.

    `changed`: there may be new lines, but the cursor was not known yet.
    `ended_at`: set if it had already ended when the cursor became known.
    """

    __slots__ = ("changed", "cursor", "ended_at", "position", "readers", "status", "user_id")

    def __init__(self, user_id: int) -> None:
        self.user_id = user_id
        self.ended_at: datetime | None = None
        self.cursor: int | None = None  # None: until the first reader has caught up
        self.changed = False
        self.readers: set[Reader] = set()
        self.status = ""  # until a status was delivered
        self.position: int | None = None

    @property
    def may_wait(self) -> bool:
        return self.status in ("", Status.PENDING)


class Audience:
    """Belongs to the event loop's thread, except `open_streams`."""

    def __init__(self) -> None:
        self.followed: dict[UUID, Followed] = {}
        self.of_user: dict[int, set[Reader]] = defaultdict(set)  # readers of all executions of a user
        self._open: dict[int, int] = defaultdict(int)  # user -> open streams

    def open_streams(self, user_id: int) -> int:
        """The number of streams the user has open in this process. Thread-safe."""
        return self._open.get(user_id, 0)

    def add(self, reader: Reader) -> None:
        self._open[reader.user_id] += 1
        if reader.execution_id is None:
            self.of_user[reader.user_id].add(reader)
        else:
            self.follow(reader.execution_id, reader.user_id).readers.add(reader)

    def remove(self, reader: Reader) -> None:
        self._open[reader.user_id] -= 1
        if not self._open[reader.user_id]:
            del self._open[reader.user_id]
        if reader.execution_id is None:
            self.of_user[reader.user_id].discard(reader)
            if not self.of_user[reader.user_id]:
                del self.of_user[reader.user_id]
                self._drop(id_ for id_, each in self.followed.items() if each.user_id == reader.user_id)
        elif reader.execution_id in self.followed:
            self.followed[reader.execution_id].readers.discard(reader)
            self._drop([reader.execution_id])

    def follow(self, execution_id: UUID, user_id: int) -> Followed:
        if execution_id not in self.followed:
            self.followed[execution_id] = Followed(user_id)
        return self.followed[execution_id]

    def readers_of_all(self, execution_id: UUID, owned: Owned | Followed) -> list[Reader]:
        """The readers of all executions of the user that report this one."""
        found = self.of_user.get(owned.user_id, ())
        return [reader for reader in found if reader.reports(execution_id, ended_at=owned.ended_at)]

    def received_by_all(self, execution_id: UUID, *, ended_at: datetime | None) -> int:
        """The id of the last log line that every reader of this followed execution has received.

        From now on, readers of all executions that were opened after `ended_at` do not receive its events.
        """
        followed = self.followed[execution_id]
        followed.ended_at = ended_at
        seen = [each.seen.get(execution_id, each.last_event_id or 0) for each in followed.readers]
        seen += [each.seen.get(execution_id, 0) for each in self.readers_of_all(execution_id, followed)]
        return min(seen, default=0)

    def _drop(self, ids: Iterable[UUID]) -> None:
        """Forget those of the executions that have no readers left."""
        for id_ in list(ids):
            found = self.followed.get(id_)
            if found is not None and not found.readers and not self.readers_of_all(id_, found):
                del self.followed[id_]

    def all_readers(self) -> list[Reader]:
        found = [reader for each in self.followed.values() for reader in each.readers]
        return found + [reader for each in self.of_user.values() for reader in each]

    # -- channels ----------------------------------------------------------------------------------------
    def channels(self) -> list[str]:
        """The Redis channels that the readers need besides the one of all notifications."""
        submissions = [notify.submissions_channel(user_id) for user_id in self.of_user]
        previews = [notify.preview_channel(id_) for id_ in self.followed if self.wants_previews(id_)]
        messages = [
            notify.comfyui_channel(user_id) for user_id in self.of_user if self.wants_messages(user_id)
        ]
        return submissions + previews + messages

    def wants_previews(self, execution_id: UUID) -> bool:
        followed = self.followed.get(execution_id)
        return followed is not None and any(reader.previews for reader in followed.readers)

    def wants_messages(self, user_id: int) -> bool:
        return any(reader.messages for reader in self.of_user.get(user_id, ()))

    # -- delivery ----------------------------------------------------------------------------------------
    def deliver_line(self, line: Event) -> None:
        """A log line, to the readers of its execution; advances the cursor."""
        followed = self.followed.get(line.execution_id)
        if followed is None:
            return
        followed.cursor = max(line.id or 0, followed.cursor or 0)
        if line.name == "status":
            followed.status, followed.position = line.data["status"], None
        self.deliver(followed, line)
        if line.ends:
            # Readers of all executions keep their own cursors, in case another notification arrives.
            followed.readers.clear()
            self.followed.pop(line.execution_id, None)

    def deliver(self, followed: Followed, event: Event) -> None:
        for reader in followed.readers:
            if event.name != "preview" or reader.previews:
                reader.put(event)
        for reader in self.readers_of_all(event.execution_id, followed):
            reader.put(event)

    def deliver_message(self, event: Event, user_id: int) -> None:
        """A message of ComfyUI, to the user's websockets."""
        for reader in self.of_user.get(user_id, ()):
            if reader.messages:
                reader.put(event)
