"""What a stream reads from PostgreSQL: once at first, and nothing for an end whose message has the lines."""

from __future__ import annotations

import asyncio
import json
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from django.db import connection

from script.harness import graphs
from workflows import notify
from workflows.models import Execution
from workflows.presentation import end_message, selectors
from workflows.streaming import event_reader
from workflows.streaming.broadcaster import Broadcaster
from workflows.streaming.event_reader import Event
from workflows.streaming.subscriber import Reader

BASE = "https://here"


def encoded(events: list[Event] | None) -> list[bytes]:
    assert events is not None
    return [event.encoded(base=BASE) for event in events]


def test_the_lines_of_the_message_are_those_of_the_database(message, django_assert_num_queries):
    id_ = UUID(message["id"])
    stored = event_reader.lines_after({id_: 0})
    assert {event.name for event in stored} >= {"status", "node", "output"}
    for after in (0, stored[1].id, stored[-1].id):
        assert after is not None
        with django_assert_num_queries(0):
            found = event_reader.lines_of_end(message["rows"], id_, after=after)
        assert encoded(found) == encoded([event for event in stored if (event.id or 0) > after])


def test_lines_that_do_not_reach_back_to_the_cursor_are_not_used(message, monkeypatch):
    id_, rows = UUID(message["id"]), message["rows"]
    numbers = [event.id for event in event_reader.lines_after({id_: 0})]
    monkeypatch.setattr(selectors, "LINES_IN_RESULT", len(numbers))  # there may be earlier ones
    assert numbers[0] is not None
    assert event_reader.lines_of_end(rows, id_, after=numbers[0] - 1) is None
    after_the_first = event_reader.lines_of_end(rows, id_, after=numbers[0])
    assert after_the_first is not None
    assert [event.id for event in after_the_first] == numbers[1:]


def test_rows_that_are_long_or_of_another_execution_are_not_used(message, monkeypatch):
    assert event_reader.lines_of_end(message["rows"], uuid4(), after=0) is None
    monkeypatch.setattr(end_message, "LONGEST", len(message["rows"]) - 1)
    assert event_reader.lines_of_end(message["rows"], UUID(message["id"]), after=0) is None


def test_an_end_reaches_a_stream_without_a_read(message):
    async def received() -> tuple[list[Event], set[UUID]]:
        broadcaster = Broadcaster()
        reader = following(broadcaster, UUID(message["id"]), cursor=0)
        broadcaster._on_message(json.dumps(message).encode())
        return reader.take(), broadcaster._changed

    found, changed = asyncio.run(received())
    assert encoded(found) == encoded(event_reader.lines_after({UUID(message["id"]): 0}))
    assert found[-1].ends
    assert not changed


@pytest.mark.parametrize(("cursor", "more"), [(None, {}), (0, {"rows": None})])
def test_an_end_is_read_if_the_message_does_not_suffice(message, cursor: int | None, more: dict[str, Any]):
    async def received() -> tuple[list[Event], set[UUID]]:
        broadcaster = Broadcaster()
        reader = following(broadcaster, UUID(message["id"]), cursor=cursor)
        broadcaster._on_message(json.dumps({**message, **more}).encode())
        return reader.take(), broadcaster._changed

    assert asyncio.run(received()) == ([], {UUID(message["id"])})


@pytest.mark.parametrize("notified", [True, False])
def test_lines_are_read_again_only_if_some_were_announced_meanwhile(monkeypatch, notified: bool):
    id_ = uuid4()

    async def changed() -> set[UUID]:
        broadcaster = Broadcaster()
        reader = following(broadcaster, id_, cursor=None)

        async def reads(*_: Any) -> tuple[list[Event], int, None]:
            if notified:
                broadcaster._on_message(json.dumps({"type": "lines", "id": str(id_)}).encode())
                await broadcaster._read_changes_once()  # does not know from where on
            return [], 5, None

        monkeypatch.setattr(broadcaster, "reads", reads)
        assert await broadcaster.catch_up(reader) == []
        return broadcaster._changed

    assert asyncio.run(changed()) == ({id_} if notified else set())


@pytest.mark.parametrize("missed", [None, "connection", "notification"])
def test_a_stream_of_a_new_execution_begins_without_a_read_unless_something_was_missed(
    message, monkeypatch, missed: str | None
):
    id_ = UUID(message["id"])
    asked: list[str] = []

    async def received() -> list[Event]:
        broadcaster = Broadcaster()
        if missed != "connection":
            monkeypatch.setattr(broadcaster._redis, "_pubsub", object())
        if missed == "notification":
            broadcaster._on_message(json.dumps({"type": "lines", "id": str(id_)}).encode())
        reader = Reader(user_id=1, execution_id=id_)
        broadcaster._audience.add(reader)

        async def reads(*_: Any) -> tuple[list[Event], int, None]:
            asked.append("beginning")
            return [], 0, None

        monkeypatch.setattr(broadcaster, "reads", reads)
        assert await broadcaster.catch_up(reader, since=1.0) == []
        broadcaster._on_message(json.dumps(message).encode())
        return reader.take()

    assert encoded(asyncio.run(received())) == encoded(event_reader.lines_after({id_: 0}))
    assert asked == ([] if missed is None else ["beginning"])


def test_a_stream_of_a_new_execution_that_ends_before_it_begins_has_all_events(message, monkeypatch):
    """Subscribing to previews takes a round trip to Redis, in which another stream may be given the end."""
    id_ = UUID(message["id"])

    async def received() -> list[Event]:
        broadcaster = Broadcaster()
        monkeypatch.setattr(broadcaster._redis, "_pubsub", object())
        reader = following(broadcaster, id_, cursor=0)
        broadcaster._on_message(json.dumps(message).encode())
        return await broadcaster.catch_up(reader, since=1.0) + reader.take()

    assert encoded(asyncio.run(received())) == encoded(event_reader.lines_after({id_: 0}))


def test_a_stream_that_read_before_another_gets_what_was_written_between(message):
    id_ = UUID(message["id"])
    numbers = [event.id or 0 for event in event_reader.lines_after({id_: 0})]

    async def received() -> list[Event]:
        broadcaster = Broadcaster()
        earlier, later = (following(broadcaster, id_, cursor=None) for _ in range(2))
        await broadcaster.catch_up(later)
        await broadcaster._read_changes_once()
        earlier.caught_up({id_: numbers[0]})  # the others were written after its read
        assert later.take() == []
        return earlier.take()

    assert [event.id for event in asyncio.run(received())] == numbers[1:]


@pytest.mark.parametrize("stays", [True, False])
def test_a_stream_of_all_does_not_wait_for_one_that_never_reads(message, stays: bool):
    """Previews do not read the lines, and a client may be gone before its stream has."""
    id_ = UUID(message["id"])

    async def received() -> list[Event]:
        broadcaster = Broadcaster()
        of_all = Reader(user_id=1)
        broadcaster._audience.add(of_all)
        other = following(broadcaster, id_, cursor=None)
        if not stays:
            await broadcaster.leave(other)
        broadcaster._on_message(json.dumps(message).encode())
        await broadcaster._read_changes_once()
        return of_all.take()

    assert encoded(asyncio.run(received())) == encoded(event_reader.lines_after({id_: 0}))


def test_an_end_committed_late_reaches_a_stream_of_all_that_opened_meanwhile(message, monkeypatch):
    """Another stream of the execution reads its end while the stream of all reads what is alive."""
    id_ = UUID(message["id"])
    user_id = Execution.objects.get(id=id_).user_id
    now = event_reader.database_time()
    numbers = [event.id or 0 for event in event_reader.lines_after({id_: 0})]

    async def received() -> list[Event]:
        broadcaster = Broadcaster()
        of_all = Reader(user_id=user_id, opened_at=now)
        broadcaster._audience.add(of_all)
        other = Reader(user_id=user_id, execution_id=id_)
        broadcaster._audience.add(other)
        await broadcaster.catch_up(other)
        await broadcaster._read_changes_once()
        assert of_all.take() == []
        alive = {id_: numbers[0]}
        monkeypatch.setattr(event_reader, "current_states_of_user", lambda _: ([], alive))
        await broadcaster.catch_up(of_all)
        await broadcaster._read_changes_once()
        return of_all.take()

    assert [event.id for event in asyncio.run(received())] == numbers[1:]


def test_a_submission_is_announced_only_to_those_who_follow_its_user(settings):
    new, other = uuid4(), uuid4()
    with redis.Redis.from_url(settings.REDIS_URL) as client, client.pubsub() as subscription:
        subscription.subscribe(notify.CHANNEL, notify.submissions_channel(7))
        notify.submitted({new: 7, uuid4(): 8}, workers=[])
        notify.announce_status(other)
        published = [each for each in islice(subscription.listen(), 4) if each["type"] == "message"]
    messages = [(each["channel"].decode(), json.loads(each["data"])["id"]) for each in published]
    assert messages == [(notify.submissions_channel(7), str(new)), (notify.CHANNEL, str(other))]


def test_a_submission_reaches_the_stream_of_all_without_asking_for_its_owner():
    id_ = uuid4()

    async def marked() -> tuple[set[UUID], set[UUID]]:
        broadcaster = Broadcaster()
        broadcaster._audience.add(Reader(user_id=7))
        for user in (8, 7):
            message = {"type": "lines", "id": str(id_ if user == 7 else uuid4()), "user": user}
            broadcaster._on_message(json.dumps(message).encode())
        return broadcaster._changed, broadcaster._unknown

    assert asyncio.run(marked()) == ({id_}, set())


def following(broadcaster: Broadcaster, id_: UUID, *, cursor: int | None) -> Reader:
    reader = Reader(user_id=1, execution_id=id_)
    broadcaster._audience.add(reader)
    broadcaster._audience.followed[id_].cursor = cursor
    return reader


def test_an_execution_submitted_while_a_stream_of_all_begins_is_left_to_its_own_lines(rig):
    """Its state could be newer than the first of its lines, which follow: the stream would go back."""
    earlier = UUID(rig.submit(graphs.colour(1)))
    later: list[UUID] = []

    def submit_after_the_first(execute: Any, *args: Any) -> Any:
        found = execute(*args)
        if not later:
            later.append(uuid4())  # only once: submitting makes queries too
            later[0] = UUID(rig.submit(graphs.colour(2)))
        return found

    user_id = Execution.objects.get(id=earlier).user_id
    with connection.execute_wrapper(submit_after_the_first):
        states, cursors = event_reader.current_states_of_user(user_id)
    assert Execution.objects.filter(id=later[0]).exists()
    assert {event.execution_id for event in states} == set(cursors) == {earlier}


def test_a_place_in_the_queue_is_not_sent_once_the_execution_has_started(monkeypatch):
    id_ = uuid4()
    started = Event("status", id_, {"status": "running"}, 4)

    async def received() -> list[Event]:
        broadcaster = Broadcaster()
        reader = following(broadcaster, id_, cursor=3)

        async def reads(*_: Any) -> dict[UUID, int]:
            broadcaster._audience.deliver_line(started)  # while the positions are read
            return {id_: 1}

        monkeypatch.setattr(broadcaster, "reads", reads)
        await broadcaster._send_positions()
        return reader.take()

    assert asyncio.run(received()) == [started]
