"""The queue of one reader of live events: bounded, in order, no duplicates."""

from __future__ import annotations

import asyncio
import uuid

from workflows.streaming.event_reader import Event
from workflows.streaming.subscriber import CAPACITY, Reader

ID = uuid.uuid4()


def line(number: int, **data) -> Event:
    return Event("log", ID, data, number)


def progress(percentage: float) -> Event:
    return Event("progress", ID, {"percentage": percentage})


def end(number: int) -> Event:
    return Event("status", ID, {"status": "completed"}, number)


def reader() -> Reader:
    return Reader(user_id=1, execution_id=ID)


def test_of_progress_only_the_newest_waits() -> None:
    mine = reader()
    for event in (progress(1), line(1), progress(2), line(2)):
        mine.put(event)
    assert mine.take() == [line(1), line(2), progress(2)]
    assert mine.take() == []


def test_a_line_that_was_already_received_is_dropped() -> None:
    mine = reader()
    for number in (1, 2, 2, 1, 3):
        mine.put(line(number))
    assert [event.id for event in mine.take()] == [1, 2, 3]


def test_an_event_read_outside_the_queue_is_not_delivered_twice() -> None:
    mine = reader()
    mine.put(line(4))
    mine.put(line(5))
    mine.caught_up({ID: 4})
    mine.put(line(3))
    assert [event.id for event in mine.take()] == [5]


def test_progress_does_not_follow_the_end() -> None:
    mine = reader()
    mine.put(progress(99))
    mine.put(end(7))
    assert mine.take() == [end(7)]


def test_a_place_in_the_queue_does_not_follow_the_start() -> None:
    mine = reader()
    waiting = Event("status", ID, {"status": "pending", "queue_position": 1})
    started = Event("status", ID, {"status": "running"}, 4)
    mine.put(waiting)
    mine.put(started)
    assert mine.take() == [started]
    mine.put(waiting)  # it was requeued
    assert mine.take() == [waiting]


def test_a_reader_that_is_too_slow_is_closed_and_takes_no_more() -> None:
    mine = reader()
    for number in range(1, CAPACITY + 2):
        assert not mine.closed
        mine.put(line(number))
    assert mine.closed
    mine.put(line(CAPACITY + 2))
    assert len(mine.take()) == CAPACITY + 1


def test_waiting_ends_with_an_event_a_close_or_the_time() -> None:
    async def waits() -> tuple[bool, bool, bool]:
        mine = reader()
        nothing = await mine.wait(0.01)
        mine.put(line(1))
        something = await mine.wait(5)
        mine.take()
        asyncio.get_running_loop().call_later(0.01, mine.close)
        return nothing, something, await mine.wait(5)

    assert asyncio.run(waits()) == (False, True, True)


def test_an_event_is_written_as_the_standard_has_it() -> None:
    lines = line(3, message="two\nlines").encoded(base="").decode().split("\n")
    assert lines[0] == "id: 3"
    assert lines[1] == "event: log"
    assert lines[2].startswith('data: {"execution_id":')
    assert "\\n" in lines[2]
    assert lines[3:] == ["", ""]
