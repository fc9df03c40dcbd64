"""One Redis connection and one database read for all live streams of a web process.

Redis notifies which executions have changed; their log lines are read from PostgreSQL in one query for all of
them, or come with the message about an end, and are delivered to every reader. A lost notification delays
events by at most RECHECK_SECONDS. Everything here runs in the event loop's thread, except the queries
(`reads`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from accounts import credentials
from comfyserve.db import connections
from workflows import notify
from workflows.models import Status

from . import event_reader
from .audience import Audience, Followed
from .event_reader import Event, Owned
from .redis_listener import RedisListener
from .subscriber import EndWaiter, Reader

logger = logging.getLogger(__name__)

RECHECK_SECONDS = 15.0
RECHECK_ALONE_SECONDS = 2.0  # while Redis is unavailable
CREDENTIAL_SECONDS = 3.0  # between checks that readers' credentials are still valid
KNOWN_OWNERS = 10_000
KNOWN_CHANGES = 10_000  # executions that have changed recently
T = TypeVar("T")


class Broadcaster:
    """`join`, then `catch_up`, then read; `leave` at the end."""

    def __init__(self) -> None:
        self._audience = Audience()
        self._redis = RedisListener(
            channels=self._audience.channels, on_connect=self._mark_all_changed, on_message=self._on_message
        )
        self._owners: OrderedDict[UUID, int] = OrderedDict()
        self._end_waiters: dict[UUID, set[EndWaiter]] = defaultdict(set)
        self._changed: set[UUID] = set()
        self._unknown: set[UUID] = set()  # notified of, but whose owner is unknown
        self._woken = asyncio.Event()
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="stream-reads")
        # Those that have changed recently, according to Redis, and whether they have ended.
        self._known: OrderedDict[UUID, bool] = OrderedDict()
        self._tasks: list[asyncio.Task[None]] = []
        self.closing = False

    # -- readers -----------------------------------------------------------------------------------------
    async def join(self, reader: Reader) -> None:
        """Start to queue new events for the reader."""
        self._begin()
        self._audience.add(reader)
        if reader.execution_id is None:
            await self._redis.subscribe(notify.submissions_channel(reader.user_id))
            if reader.messages:
                await self._redis.subscribe(notify.comfyui_channel(reader.user_id))
        elif reader.previews:
            await self._redis.subscribe(notify.preview_channel(reader.execution_id))

    def _begin(self) -> None:
        if not self._tasks:
            each = (self._redis.listen, self._read_changes, self._recheck, self._check_credentials)
            self._tasks = [asyncio.create_task(task()) for task in each]

    async def leave(self, reader: Reader) -> None:
        self._audience.remove(reader)
        if reader.execution_id is None:
            if reader.user_id not in self._audience.of_user:
                await self._redis.unsubscribe(notify.submissions_channel(reader.user_id))
            if reader.messages and not self._audience.wants_messages(reader.user_id):
                await self._redis.unsubscribe(notify.comfyui_channel(reader.user_id))
        elif reader.previews and not self._audience.wants_previews(reader.execution_id):
            await self._redis.unsubscribe(notify.preview_channel(reader.execution_id))

    def add_waiter(self, waiter: EndWaiter, *, since: float | None = None) -> None:
        """Signal `waiter` when its execution ends, immediately if it already has.

        since: a moment (monotonic) at which the execution did not exist yet. If Redis has been connected
        from then on, its notifications suffice and the database is not queried.
        """
        self._begin()
        self._end_waiters[waiter.execution_id].add(waiter)
        if self._known.get(waiter.execution_id):
            waiter.signal_end()
        elif since is None or not self._redis.connected_since(since):
            self._mark_changed([waiter.execution_id])

    def remove_waiter(self, waiter: EndWaiter) -> None:
        self._end_waiters[waiter.execution_id].discard(waiter)
        if not self._end_waiters[waiter.execution_id]:
            del self._end_waiters[waiter.execution_id]

    def _remember_change(self, id_: UUID, *, ended: bool) -> None:
        self._known[id_] = ended or self._known.get(id_, False)
        while len(self._known) > KNOWN_CHANGES:
            self._known.popitem(last=False)

    def _has_ended(self, id_: UUID, rows: str | None = None) -> None:
        self._remember_change(id_, ended=True)
        for waiter in self._end_waiters.get(id_, ()):
            waiter.signal_end(rows)

    def open_streams(self, user_id: int) -> int:
        """The number of streams the user has open in this process. Thread-safe."""
        return self._audience.open_streams(user_id)

    async def close(self) -> None:
        """End all streams, so that their clients reconnect to another process."""
        self.closing = True
        for reader in self._audience.all_readers():
            reader.close()
        for waiter in [each for waiters in self._end_waiters.values() for each in waiters]:
            waiter.close()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=False)

    # -- catching up -------------------------------------------------------------------------------------
    async def catch_up(self, reader: Reader, *, since: float | None = None) -> list[Event]:
        """The events a reader that has just joined starts with, in order; later ones are in its queue.

        since: a moment (monotonic) at which its execution did not exist yet. If nothing was announced of it
        from then on, nothing is read: its first event comes with the next.
        """
        if reader.execution_id is None:
            return await self._catch_up_all(reader)
        if since is not None and self._begins_with(reader.execution_id, since=since):
            return []
        id_, after = reader.execution_id, reader.last_event_id or 0
        found, cursor, ended_at = await self.reads(lambda: event_reader.beginning(id_, after=after))
        reader.caught_up({id_: cursor})
        followed = self._audience.followed.get(id_)
        statuses = [line.data["status"] for line in found if line.name == "status"]
        if followed is not None and statuses:
            followed.status = statuses[-1]
        if followed is not None and followed.cursor is None:
            # Other readers may not have received the lines that this one has just read: those of all
            # executions, and those that read earlier but have not caught up yet.
            followed.cursor = self._audience.received_by_all(id_, ended_at=ended_at)
            if followed.changed or followed.cursor < cursor:
                self._mark_changed([id_])
        return found

    def _begins_with(self, id_: UUID, *, since: float) -> bool:
        """Whether all changes of an execution since its submission are still to be announced."""
        followed = self._audience.followed.get(id_)  # None: it has ended already
        if followed is None or followed.cursor is not None or id_ in self._known:
            return False
        if not self._redis.connected_since(since):
            return False
        followed.cursor = 0
        return True

    async def _catch_up_all(self, reader: Reader) -> list[Event]:
        found, cursors = await self.reads(event_reader.current_states_of_user, reader.user_id)
        if reader.last_event_id is not None:
            after = reader.last_event_id
            missed = await self.reads(lambda: event_reader.missed_by_user(reader.user_id, after=after))
            lines = await self.reads(event_reader.all_lines_after, missed.cursors)
            cursors |= missed.cursors
            found = [line for line in lines if missed.wants(line)] + found
            if missed.gap:
                found.insert(0, event_reader.gap())
        reader.caught_up(cursors)
        for id_ in cursors.keys() & self._audience.followed.keys():
            # Before it was in `seen`, this reader may not have received its end.
            if self._audience.followed[id_].ended_at is not None:
                self._audience.followed[id_].cursor = None
                self._mark_changed([id_])
        return found

    async def reads(self, do: Callable[..., T], *arguments: Any) -> T:
        """Run a query in a thread, which returns its connection to the pool afterwards."""

        def step() -> T:
            with connections.step():
                return do(*arguments)

        return await asyncio.get_running_loop().run_in_executor(self._threads, step)

    # -- reading -----------------------------------------------------------------------------------------
    def _mark_changed(self, ids: Iterable[UUID]) -> None:
        self._changed.update(ids)
        if self._changed or self._unknown:
            self._woken.set()

    def _mark_all_changed(self) -> None:
        self._mark_changed((*self._audience.followed, *self._end_waiters))

    async def _read_changes(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                await self._read_changes_once()
            except connections.UNAVAILABLE as exc:
                logger.warning("live streams wait, the database is unavailable: %s", exc)
                await asyncio.sleep(1.0)
                self._woken.set()
            except Exception:  # all streams depend on this task
                logger.exception("a task of the live streams failed")
                await asyncio.sleep(1.0)

    async def _read_changes_once(self) -> None:
        if self._unknown:
            asked = set(self._unknown)
            owners = await self.reads(event_reader.owners, asked)
            self._unknown -= asked
            self._remember_owners(owners)
        changed, self._changed = self._changed, set()
        try:
            await self._read_lines(changed)
            await self._read_ends(changed)
        except BaseException:
            self._changed |= changed
            raise

    async def _read_lines(self, changed: set[UUID]) -> None:
        await self._set_cursors(changed)
        cursors: dict[UUID, int] = {}
        for id_ in changed & self._audience.followed.keys():
            followed = self._audience.followed[id_]
            if followed.cursor is None:
                followed.changed = True  # its first reader has not caught up
            else:
                cursors[id_] = followed.cursor
        if not cursors:
            return
        lines = await self.reads(event_reader.lines_after, cursors)
        for line in lines:
            self._audience.deliver_line(line)
        if len(lines) == event_reader.LINES_AT_ONCE:
            self._mark_changed(cursors)

    async def _set_cursors(self, changed: set[UUID]) -> None:
        """Readers of all executions do not wait for an execution's own readers: previews never catch up."""
        audience = self._audience
        waiting = [
            id_
            for id_ in changed & audience.followed.keys()
            if audience.followed[id_].cursor is None and audience.followed[id_].user_id in audience.of_user
        ]
        if not waiting:
            return
        for id_, owned in (await self.reads(event_reader.owners, waiting)).items():
            followed = audience.followed.get(id_)
            if followed is None or followed.cursor is not None:
                continue  # meanwhile
            followed.ended_at = owned.ended_at
            if audience.readers_of_all(id_, followed):
                followed.cursor = audience.received_by_all(id_, ended_at=owned.ended_at)

    async def _read_ends(self, changed: set[UUID]) -> None:
        asked = changed & self._end_waiters.keys()
        if asked:
            for id_ in await self.reads(event_reader.ended, asked):
                self._has_ended(id_)

    def _remember_owners(self, owners: Mapping[UUID, Owned]) -> None:
        """Remember the owners; follow the executions that readers of all executions report."""
        for id_, owned in owners.items():
            self._owners[id_] = owned.user_id
            self._owners.move_to_end(id_)
            if id_ not in self._audience.followed and self._audience.readers_of_all(id_, owned):
                followed = self._audience.follow(id_, owned.user_id)
                followed.cursor = self._audience.received_by_all(id_, ended_at=owned.ended_at)
            if id_ in self._audience.followed:
                self._changed.add(id_)
        while len(self._owners) > KNOWN_OWNERS:
            self._owners.popitem(last=False)

    # -- Redis -------------------------------------------------------------------------------------------
    def _on_message(self, raw: bytes) -> None:
        try:
            message = json.loads(raw)
            id_, kind = UUID(message["id"]), message["type"]
        except (ValueError, KeyError, TypeError):
            return  # not one of our messages
        if kind == "comfyui":
            self._audience.deliver_message(Event("comfyui", id_, message), message["user"])
            return
        if message.get("ended"):
            self._has_ended(id_, message.get("rows"))
        else:
            self._remember_change(id_, ended=False)
        followed = self._audience.followed.get(id_)
        if followed is None:
            self._on_unfollowed(id_, message.get("user"))
        elif kind == "lines":
            self._on_lines(id_, followed, message.get("rows"))
        elif kind == "progress":
            self._audience.deliver(followed, event_reader.progress(id_, message["progress"]))
            if message.get("lines"):
                self._mark_changed([id_])
        elif kind == "preview":
            self._audience.deliver(followed, Event("preview", id_, message["preview"]))

    def _on_lines(self, id_: UUID, followed: Followed, rows: str | None) -> None:
        """Deliver the new lines if they came with the message; else read them."""
        lines = None
        if rows is not None and followed.cursor is not None:
            lines = event_reader.lines_of_end(rows, id_, after=followed.cursor)
        if lines is None:
            self._mark_changed([id_])
            return
        for line in lines:
            self._audience.deliver_line(line)

    def _on_unfollowed(self, id_: UUID, owner: int | None) -> None:
        """The execution has no readers of its own; its user may have readers of all executions."""
        if not self._audience.of_user:
            return
        owner = owner or self._owners.get(id_)
        if owner is None:
            self._unknown.add(id_)
        elif owner in self._audience.of_user:
            self._remember_owners({id_: Owned(owner)})
        self._mark_changed(())

    # -- credentials -------------------------------------------------------------------------------------
    async def _check_credentials(self) -> None:
        """End streams and waits of revoked credentials: logout, new password, deleted key or account."""
        while True:
            await asyncio.sleep(CREDENTIAL_SECONDS)
            readers = [reader for reader in self._audience.all_readers() if reader.credential is not None]
            waiting = [each for waiters in self._end_waiters.values() for each in waiters]
            shown = {reader.credential for reader in readers if reader.credential is not None}
            shown |= {waiter.credential for waiter in waiting}
            try:
                good = await self.reads(credentials.still_valid, shown) if shown else set()
            except connections.UNAVAILABLE as exc:
                logger.warning("live streams continue unchecked, the database is unavailable: %s", exc)
                continue
            except Exception:
                logger.exception("live streams continue unchecked")
                continue
            for reader in readers:
                if reader.credential not in good:
                    reader.close()
            for waiter in waiting:
                if waiter.credential not in good:
                    waiter.revoke()

    # -- rechecking --------------------------------------------------------------------------------------
    async def _recheck(self) -> None:
        """Query the database periodically, in case notifications were lost."""
        checked_at = time.monotonic()
        while True:
            await asyncio.sleep(RECHECK_SECONDS if self._redis.connected else RECHECK_ALONE_SECONDS)
            try:
                started_at = time.monotonic()
                if self._audience.of_user:
                    within = timedelta(seconds=started_at - checked_at) + event_reader.RECENT
                    users = list(self._audience.of_user)
                    await self._follow_active(users, within=within)
                checked_at = started_at
                await self._send_positions()
            except connections.UNAVAILABLE as exc:
                logger.warning("live streams are not rechecked, the database is unavailable: %s", exc)
            except Exception:
                logger.exception("a task of the live streams failed")
            self._mark_all_changed()

    async def _follow_active(self, users: list[int], *, within: timedelta) -> None:
        owners = await self.reads(lambda: event_reader.recently_active(users, within=within))
        self._remember_owners(owners)

    async def _send_positions(self) -> None:
        waiting = [id_ for id_, each in self._audience.followed.items() if each.readers and each.may_wait]
        if not waiting:
            return
        for id_, position in (await self.reads(event_reader.positions, waiting)).items():
            followed = self._audience.followed.get(id_)
            # It may have started meanwhile.
            if followed is not None and followed.may_wait and followed.position != position:
                followed.position = position
                data = {"status": Status.PENDING, "queue_position": position}
                self._audience.deliver(followed, Event("status", id_, data))
