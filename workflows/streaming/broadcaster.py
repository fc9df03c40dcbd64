"""What live streams of one web process share: one Redis connection, one read of the database for all.

Redis says which execution has something new; the lines themselves are read from PostgreSQL, of all
executions with news in one query, and given to every reader. A word that was lost costs RECHECK_SECONDS.
Everything here runs in the event loop's thread; only `reads` leaves it, for the query.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import redis.asyncio
from django.conf import settings

from accounts import credentials
from comfyserve import outages
from comfyserve.db import connections
from workflows import notify
from workflows.models import Status

from . import event_reader
from .event_reader import Event
from .subscriber import Ending, Reader

logger = logging.getLogger(__name__)

RECHECK_SECONDS = 15.0
RECHECK_ALONE_SECONDS = 2.0  # while Redis is unavailable
CREDENTIAL_SECONDS = 3.0  # between looks whether those who read may still do so
KNOWN_OWNERS = 10_000
KNOWN_ENDS = 10_000  # executions whose end was heard lately
T = TypeVar("T")


class Followed:
    """An execution that somebody here follows. `cursor`: its lines up to there were given out."""

    __slots__ = ("cursor", "position", "readers", "status", "user_id")

    def __init__(self, user_id: int) -> None:
        self.user_id = user_id
        self.cursor: int | None = None  # None: until the first reader has caught up
        self.readers: set[Reader] = set()
        self.status = ""
        self.position: int | None = None


class Hub:
    """`join`, then `catch_up`, then read; `leave` at the end."""

    def __init__(self) -> None:
        self._followed: dict[UUID, Followed] = {}
        self._of_user: dict[int, set[Reader]] = defaultdict(set)  # readers of all that a user has
        self._open: dict[int, int] = defaultdict(int)  # user -> open streams
        self._owners: OrderedDict[UUID, int] = OrderedDict()
        self._endings: dict[UUID, set[Ending]] = defaultdict(set)
        self._news: set[UUID] = set()
        self._strange: set[UUID] = set()  # somebody's, we do not know whose
        self._woken = asyncio.Event()
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="stream-reads")
        self._pubsub: redis.asyncio.client.PubSub | None = None
        self._heard = False  # Redis tells us of news
        self._heard_since = 0.0  # monotonic
        self._ended: OrderedDict[UUID, None] = OrderedDict()  # lately, as far as Redis told us
        self._tasks: list[asyncio.Task[None]] = []
        self.closing = False

    # -- readers -----------------------------------------------------------------------------------------
    async def join(self, reader: Reader) -> None:
        """From here on the reader gets what is new."""
        self._begin()
        self._open[reader.user_id] += 1
        if reader.execution_id is None:
            self._of_user[reader.user_id].add(reader)
            if reader.messages:
                await self._tell_redis("subscribe", notify.comfyui_channel(reader.user_id))
        else:
            self._follow(reader.execution_id, reader.user_id).readers.add(reader)
            if reader.previews:
                await self._want_previews(reader.execution_id)

    def _begin(self) -> None:
        if not self._tasks:
            each = (self._listen, self._read, self._recheck, self._check_credentials)
            self._tasks = [asyncio.create_task(task()) for task in each]

    async def leave(self, reader: Reader) -> None:
        self._open[reader.user_id] -= 1
        if not self._open[reader.user_id]:
            del self._open[reader.user_id]
        if reader.execution_id is None:
            self._of_user[reader.user_id].discard(reader)
            await self._unwant_messages(reader)
            if not self._of_user[reader.user_id]:
                del self._of_user[reader.user_id]
                self._drop(id_ for id_, each in self._followed.items() if each.user_id == reader.user_id)
            return
        followed = self._followed.get(reader.execution_id)
        if followed is not None:
            followed.readers.discard(reader)
            self._drop([reader.execution_id])
        if reader.previews:
            await self._unwant_previews(reader.execution_id)

    def expect(self, ending: Ending, *, since: float | None = None) -> None:
        """From here on it is told of the execution's end, at once where that has happened already.

        since: when the execution did not exist yet (monotonic). What Redis has told us from then on need not
        be asked of the database.
        """
        self._begin()
        self._endings[ending.execution_id].add(ending)
        if ending.execution_id in self._ended:
            ending.happens()
        elif since is None or not self._heard or since < self._heard_since:
            self._look_at([ending.execution_id])

    def forget(self, ending: Ending) -> None:
        self._endings[ending.execution_id].discard(ending)
        if not self._endings[ending.execution_id]:
            del self._endings[ending.execution_id]

    def _has_ended(self, id_: UUID) -> None:
        self._ended[id_] = None
        while len(self._ended) > KNOWN_ENDS:
            self._ended.popitem(last=False)
        for ending in self._endings.get(id_, ()):
            ending.happens()

    def open_streams(self, user_id: int) -> int:
        """How many the user has open in this process. May be asked from any thread."""
        return self._open.get(user_id, 0)

    def _follow(self, execution_id: UUID, user_id: int) -> Followed:
        if execution_id not in self._followed:
            self._followed[execution_id] = Followed(user_id)
        return self._followed[execution_id]

    def _drop(self, ids: Iterable[UUID]) -> None:
        """Those that nobody follows any more."""
        for id_ in list(ids):
            found = self._followed.get(id_)
            if found is not None and not found.readers and found.user_id not in self._of_user:
                del self._followed[id_]

    async def close(self) -> None:
        """End all streams: their clients connect elsewhere."""
        self.closing = True
        for reader in self._all_readers():
            reader.close()
        for ending in [each for endings in self._endings.values() for each in endings]:
            ending.close()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=False)

    def _all_readers(self) -> list[Reader]:
        found = [reader for each in self._followed.values() for reader in each.readers]
        return found + [reader for each in self._of_user.values() for reader in each]

    # -- catching up -------------------------------------------------------------------------------------
    async def catch_up(self, reader: Reader) -> list[Event]:
        """What a reader that has just joined needs first, in order; what is new is in its queue already."""
        if reader.execution_id is None:
            return await self._catch_up_all(reader)
        id_ = reader.execution_id
        cursors = {id_: reader.last_event_id or 0}
        found = await self.reads(event_reader.all_lines_after, cursors)
        cursor = cursors[id_]
        if not any(line.ends for line in found):
            found += await self.reads(event_reader.standing, id_)
        reader.caught_up({id_: cursor})
        followed = self._followed.get(id_)
        told = [line.data["status"] for line in found if line.name == "status"]
        if followed is not None and told:
            followed.status = told[-1]
        if followed is not None and followed.cursor is None:
            # Streams of all may not have been told of it at all, and lack what this reader has just read.
            of_all = self._of_user.get(reader.user_id, ())
            followed.cursor = min([cursor, *(each.seen.get(id_, 0) for each in of_all)])
            self._look_at([id_])  # something may have come while nobody could read on
        return found

    async def _catch_up_all(self, reader: Reader) -> list[Event]:
        found, cursors = await self.reads(event_reader.standing_of_user, reader.user_id)
        if reader.last_event_id is not None:
            after = reader.last_event_id
            missed = await self.reads(lambda: event_reader.missed_by_user(reader.user_id, after=after))
            lines = await self.reads(event_reader.all_lines_after, missed.cursors)
            cursors |= missed.cursors
            found = [line for line in lines if missed.wants(line)] + found
            if missed.gap:
                found.insert(0, event_reader.gap())
        reader.caught_up(cursors)
        return found

    async def reads(self, do: Callable[..., T], *arguments: Any) -> T:
        """A read of the database, in a thread that gives its connection back."""

        def step() -> T:
            with connections.step():
                return do(*arguments)

        return await asyncio.get_running_loop().run_in_executor(self._threads, step)

    # -- news --------------------------------------------------------------------------------------------
    def _look_at(self, ids: Iterable[UUID]) -> None:
        self._news.update(ids)
        if self._news or self._strange:
            self._woken.set()

    def _look_at_all(self) -> None:
        self._look_at((*self._followed, *self._endings))

    async def _read(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                await self._read_once()
            except connections.UNAVAILABLE as exc:
                logger.warning("live streams wait, the database is unavailable: %s", exc)
                await asyncio.sleep(1.0)
                self._woken.set()
            except Exception:  # all streams hang on this task
                logger.exception("a task of the live streams failed")
                await asyncio.sleep(1.0)

    async def _read_once(self) -> None:
        if self._strange:
            asked = set(self._strange)
            owners = await self.reads(event_reader.owners, asked)
            self._strange -= asked
            self._know(owners)
        news, self._news = self._news, set()
        try:
            await self._read_lines(news)
            await self._read_ends(news)
        except BaseException:
            self._news |= news
            raise

    async def _read_lines(self, news: set[UUID]) -> None:
        cursors = {
            id_: self._followed[id_].cursor
            for id_ in news
            if id_ in self._followed and self._followed[id_].cursor is not None
        }
        if not cursors:
            return
        lines = await self.reads(event_reader.lines_after, cursors)
        for line in lines:
            self._give_line(line)
        if len(lines) == event_reader.LINES_AT_ONCE:
            self._look_at(cursors)

    async def _read_ends(self, news: set[UUID]) -> None:
        asked = news & self._endings.keys()
        if asked:
            for id_ in await self.reads(event_reader.ended, asked):
                self._has_ended(id_)

    def _know(self, owners: dict[UUID, int]) -> None:
        """Whose executions these are; those of users who follow everything are followed from now on."""
        for id_, user_id in owners.items():
            self._owners[id_] = user_id
            self._owners.move_to_end(id_)
            readers = self._of_user.get(user_id)
            if readers and id_ not in self._followed:
                self._follow(id_, user_id).cursor = min(reader.seen.get(id_, 0) for reader in readers)
            if id_ in self._followed:
                self._news.add(id_)
        while len(self._owners) > KNOWN_OWNERS:
            self._owners.popitem(last=False)

    def _give_line(self, line: Event) -> None:
        followed = self._followed.get(line.execution_id)
        if followed is None:
            return
        followed.cursor = max(line.id or 0, followed.cursor or 0)
        if line.name == "status":
            followed.status, followed.position = line.data["status"], None
        self._give(followed, line)
        if line.ends:
            # Readers of all remember how far they are, should somebody speak of it again.
            followed.readers.clear()
            self._followed.pop(line.execution_id, None)

    def _give(self, followed: Followed, event: Event) -> None:
        for reader in followed.readers:
            if event.name != "preview" or reader.previews:
                reader.put(event)
        for reader in self._of_user.get(followed.user_id, ()):
            reader.put(event)

    def _give_message(self, event: Event, user_id: int) -> None:
        for reader in self._of_user.get(user_id, ()):
            if reader.messages:
                reader.put(event)

    # -- Redis -------------------------------------------------------------------------------------------
    async def _listen(self) -> None:
        backoff = outages.Backoff(0.2, 5.0)
        while True:
            try:
                client = redis.asyncio.Redis.from_url(
                    settings.REDIS_URL,
                    socket_connect_timeout=1.0,
                    socket_timeout=None,  # an idle subscription is no failure
                    socket_keepalive=True,
                    health_check_interval=10,
                )
                async with client, client.pubsub() as pubsub:
                    await pubsub.subscribe(notify.CHANNEL)
                    self._pubsub, self._heard = pubsub, True
                    self._heard_since = time.monotonic()
                    backoff.reset()
                    # After `_pubsub` is set: who joins from now on subscribes by itself.
                    if channels := [*self._preview_channels(), *self._message_channels()]:
                        await pubsub.subscribe(*channels)
                    self._look_at_all()  # what was said before, we have not heard
                    while True:
                        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=5.0)
                        if message is not None:
                            self._hear(message["data"])
            except outages.REDIS as exc:
                logger.warning("live streams continue without Redis: %s", exc)
            except Exception:  # nobody else would listen again
                logger.exception("live streams continue without Redis")
            finally:
                self._pubsub, self._heard = None, False
            await asyncio.sleep(backoff.next())

    def _hear(self, raw: bytes) -> None:
        try:
            message = json.loads(raw)
            id_, kind = UUID(message["id"]), message["type"]
        except (ValueError, KeyError, TypeError):
            return  # not ours
        if kind == "comfyui":
            self._give_message(Event("comfyui", id_, message), message["user"])
            return
        if message.get("ended"):
            self._has_ended(id_)
        followed = self._followed.get(id_)
        if followed is None:
            self._hear_of_stranger(id_)
        elif kind == "lines":
            self._look_at([id_])
        elif kind == "progress":
            self._give(followed, Event("progress", id_, _progress(message["progress"])))
            if message.get("lines"):
                self._look_at([id_])
        elif kind == "preview":
            self._give(followed, Event("preview", id_, message["preview"]))

    def _hear_of_stranger(self, id_: UUID) -> None:
        """Nobody follows it by name; it may be of a user who follows everything."""
        if not self._of_user:
            return
        owner = self._owners.get(id_)
        if owner is None:
            self._strange.add(id_)
        elif owner in self._of_user:
            self._know({id_: owner})
        self._look_at(())

    # -- previews ----------------------------------------------------------------------------------------
    def _preview_channels(self) -> list[str]:
        return [
            notify.preview_channel(id_)
            for id_, each in self._followed.items()
            if any(reader.previews for reader in each.readers)
        ]

    async def _want_previews(self, execution_id: UUID) -> None:
        await self._tell_redis("subscribe", notify.preview_channel(execution_id))

    async def _unwant_previews(self, execution_id: UUID) -> None:
        followed = self._followed.get(execution_id)
        if followed is None or not any(reader.previews for reader in followed.readers):
            await self._tell_redis("unsubscribe", notify.preview_channel(execution_id))

    def _message_channels(self) -> list[str]:
        return [
            notify.comfyui_channel(user_id)
            for user_id, readers in self._of_user.items()
            if any(reader.messages for reader in readers)
        ]

    async def _unwant_messages(self, gone: Reader) -> None:
        others = self._of_user.get(gone.user_id, ())
        if gone.messages and not any(reader.messages for reader in others):
            await self._tell_redis("unsubscribe", notify.comfyui_channel(gone.user_id))

    async def _tell_redis(self, what: str, channel: str) -> None:
        if self._pubsub is None:
            return  # it will be among the channels when the connection is back
        try:
            await getattr(self._pubsub, what)(channel)
        except outages.REDIS as exc:
            logger.warning("%s of %s failed: %s", what, channel, exc)

    # -- who may still read ------------------------------------------------------------------------------
    async def _check_credentials(self) -> None:
        """Close the streams of those who logged out, whose password changed, whose key or account is gone."""
        while True:
            await asyncio.sleep(CREDENTIAL_SECONDS)
            readers = [reader for reader in self._all_readers() if reader.credential is not None]
            shown = {reader.credential for reader in readers if reader.credential is not None}
            try:
                good = await self.reads(credentials.still_good, shown) if shown else set()
            except connections.UNAVAILABLE as exc:
                logger.warning("live streams continue unchecked, the database is unavailable: %s", exc)
                continue
            except Exception:
                logger.exception("live streams continue unchecked")
                continue
            for reader in readers:
                if reader.credential not in good:
                    reader.close()

    # -- looking again -----------------------------------------------------------------------------------
    async def _recheck(self) -> None:
        """In case nobody told us."""
        looked_at = time.monotonic()
        while True:
            await asyncio.sleep(RECHECK_SECONDS if self._heard else RECHECK_ALONE_SECONDS)
            try:
                begun_at = time.monotonic()
                if self._of_user:
                    within = timedelta(seconds=begun_at - looked_at) + event_reader.LATELY
                    users = list(self._of_user)
                    self._know(await self.reads(lambda: event_reader.moving(users, within=within)))  # noqa: B023
                looked_at = begun_at
                await self._tell_positions()
            except connections.UNAVAILABLE as exc:
                logger.warning("live streams are not rechecked, the database is unavailable: %s", exc)
            except Exception:
                logger.exception("a task of the live streams failed")
            self._look_at_all()

    async def _tell_positions(self) -> None:
        waiting = [
            id_
            for id_, each in self._followed.items()
            if each.readers and each.status in ("", Status.PENDING)
        ]
        if not waiting:
            return
        for id_, position in (await self.reads(event_reader.positions, waiting)).items():
            followed = self._followed.get(id_)
            if followed is not None and followed.position != position:
                followed.position = position
                data = {"status": Status.PENDING, "queue_position": position}
                self._give(followed, Event("status", id_, data))


def _progress(columns: dict[str, Any]) -> dict[str, Any]:
    """As `representations.progress` has it."""
    eta = columns.get("eta_seconds")
    return {
        **columns,
        "percentage": round(columns.get("percentage", 0.0), 1),
        "eta_seconds": None if eta is None else round(eta, 1),
    }
