"""A stream of all executions beside streams of single ones: it reports only what ends after it was opened."""

from __future__ import annotations

import uuid

from script.harness import graphs
from script.harness.sse import follow, statuses


def ended(person):
    execution_id = person.execute(graphs.colour(0x102030))
    person.result(execution_id)
    return execution_id


def copy_unannounced(stack, execution_id):
    """The id of another execution that has just ended; its notifications were lost."""
    copy = str(uuid.uuid4())
    stack.sql(
        "INSERT INTO workflows_execution SELECT (jsonb_populate_record("
        " e, jsonb_build_object('id', %s::text, 'completed_at', statement_timestamp()))).*"
        " FROM workflows_execution e WHERE id = %s",
        copy,
        execution_id,
    )
    stack.sql(
        "INSERT INTO workflows_logline (execution_id, level, message, kind, data)"
        " VALUES (%s, 'INFO', 'done', 'status', '{\"status\": \"completed\"}')",
        copy,
    )
    return copy


def reported(stream):
    return {event.data["execution_id"] for event in stream.seen}


def test_opening_the_stream_of_an_ended_execution_sends_nothing_to_the_stream_of_all(gpu_worker):
    person = gpu_worker.person()
    before = ended(person)
    with follow(person) as stream:
        with follow(person, before) as one:
            assert statuses(one.rest()) == ["pending", "running", "completed"]
        after = person.execute(graphs.colour(0x203040))
        stream.until("status", status="completed", execution_id=after)
        with follow(person, after) as one:
            one.rest()
        last = person.execute(graphs.colour(0x304050))
        stream.until("status", status="completed", execution_id=last)
    assert reported(stream) == {after, last}
    numbers = [event.id for event in stream.seen if event.id is not None]
    assert len(numbers) == len(set(numbers))


def test_a_recheck_reports_what_was_missed_but_not_what_ended_before(gpu_worker):
    person = gpu_worker.person()
    before = ended(person)
    with follow(person) as stream:
        after = copy_unannounced(gpu_worker, before)
        stream.until("status", status="completed", execution_id=after, seconds=40)
    assert reported(stream) == {after}
