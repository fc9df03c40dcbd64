"""A `Last-Event-ID` greater than any event's: a client's mistake, or from before a database was restored."""

from __future__ import annotations

import uuid

from script.harness import graphs
from script.harness.sse import follow, statuses

BEYOND = 10**17


def numbers(events):
    return [event.id for event in events if event.id is not None]


def test_all_events_are_replayed_and_other_streams_miss_none(gpu_worker, comfyui):
    person = gpu_worker.person()
    gate = uuid.uuid4().hex
    execution_id = person.execute(graphs.gate(gate))
    with follow(person, execution_id, last=BEYOND) as wrong, follow(person, execution_id) as other:
        other.until("status", status="running")
        comfyui.open_gate(gate)
        for stream in (other, wrong):
            assert statuses(stream.rest()) == ["pending", "running", "completed"]
    assert numbers(wrong.seen) == numbers(other.seen)


def test_an_execution_that_has_ended_has_no_later_events(gpu_worker):
    person = gpu_worker.person()
    execution_id = person.execute(graphs.colour(0x010203))
    person.result(execution_id)
    assert follow(person, execution_id, last=BEYOND).status == 204


def test_the_stream_of_all_reports_a_gap_and_goes_on(gpu_worker, comfyui):
    person, other = gpu_worker.person(), gpu_worker.person()
    gate = uuid.uuid4().hex
    execution_id = person.execute(graphs.gate(gate))
    with follow(person, execution_id) as one:
        one.until("status", status="running")
        # It has been silent for longer than what a reconnect repeats; another execution has not.
        gpu_worker.sql(
            "UPDATE workflows_logline SET timestamp = timestamp - interval '5 minutes'"
            " WHERE execution_id = %s",
            execution_id,
        )
        other.execute(graphs.colour(0x030201))
        with follow(person, last=BEYOND) as stream:
            stream.until("status", status="running")
            assert stream.seen[0].name == "gap"
            comfyui.open_gate(gate)
            stream.until("status", status="completed", execution_id=execution_id)
