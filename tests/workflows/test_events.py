"""GET /workflows/{id}/events and /workflows/events: live, and nothing lost after a disconnect."""

from __future__ import annotations

import time
import uuid

import psycopg
import pytest
import requests

from script.harness import graphs
from script.harness.sse import EventStream, follow, statuses
from script.harness.waiting import wait_for


def numbers(events):
    return [event.id for event in events if event.id is not None]


@pytest.fixture(scope="module", autouse=True)
def idle(_stack):
    """A stream on which nothing happens, open from the start: a heartbeat takes 15 s."""
    _stack.start_web()
    with follow(_stack.person()) as stream:
        yield stream


# -- one execution ---------------------------------------------------------------------------------------
def test_a_run_is_reported_from_the_queue_to_its_outputs(gpu_worker, comfyui):
    person = gpu_worker.person()
    gate = uuid.uuid4().hex
    execution_id = person.execute(graphs.gate(gate, steps=1000))
    with follow(person, execution_id) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        stream.until("progress")
        comfyui.open_gate(gate)
        seen = stream.rest()
    assert statuses(seen) == ["pending", "running", "completed"]
    assert seen[-1].name == "end"
    assert {"log", "node", "output", "progress", "status"} <= {event.name for event in seen}
    assert numbers(seen) == sorted(set(numbers(seen)))
    assert all(event.data["execution_id"] == execution_id for event in seen[:-1])


def test_an_output_event_has_a_link_that_works(gpu_worker):
    person = gpu_worker.person()
    with follow(person, person.execute(graphs.colour(0x00FF00))) as stream:
        output = stream.until("output").data
    assert output["group"] == "images"
    assert requests.get(output["url"], timeout=30).headers["Content-Type"] == "image/png"


def test_progress_is_sent_while_it_runs(gpu_worker, comfyui):
    person = gpu_worker.person()
    gate = uuid.uuid4().hex
    with follow(person, person.execute(graphs.gate(gate, steps=1000))) as stream:
        first = stream.until("progress").data["percentage"]
        while stream.until("progress").data["percentage"] <= first:
            pass
        comfyui.open_gate(gate)
        stream.until("status", status="completed")


def test_a_stream_of_an_ended_execution_replays_everything_and_ends(gpu_worker):
    person = gpu_worker.person()
    execution_id = person.execute(graphs.colour(0x0000FF))
    person.result(execution_id)
    with follow(person, execution_id) as stream:
        assert statuses(stream.rest()) == ["pending", "running", "completed"]


def test_after_an_interruption_no_event_is_missing_or_repeated(gpu_worker):
    person = gpu_worker.person()
    execution_id = person.execute(graphs.sleep(2, seed=13))
    with follow(person, execution_id) as stream:
        stream.until("status", status="running")
        before = numbers(stream.seen)
    person.result(execution_id)
    with follow(person, execution_id, last=before[-1]) as stream:
        after = numbers(stream.rest())
    everything = [row[0] for row in gpu_worker.sql(
        "SELECT id FROM workflows_logline WHERE execution_id = %s ORDER BY id", execution_id
    )]  # fmt: skip
    assert before + after == everything


def test_reconnecting_after_the_end_gets_204_so_that_browsers_stop(gpu_worker):
    person = gpu_worker.person()
    execution_id = person.execute(graphs.colour(0xFF0000))
    with follow(person, execution_id) as stream:
        last = numbers(stream.rest())[-1]
    assert follow(person, execution_id, last=last).status == 204


def test_a_waiting_execution_shows_its_queue_position(gpu_worker):
    person = gpu_worker.person()
    before = [person.execute(graphs.sleep(60, seed=seed)) for seed in range(40, 43)]
    try:
        execution_id = person.execute(graphs.sleep(60, seed=43))
        with follow(person, execution_id) as stream:
            while (event := stream.until("status")).id is not None:
                pass
        assert event.data["status"] == "pending"
        assert event.data["queue_position"] >= 1
    finally:
        for each in [execution_id, *before[::-1]]:
            person.post(f"/workflows/{each}/cancel")


def test_cancelling_ends_the_stream(gpu_worker):
    person = gpu_worker.person()
    execution_id = person.execute(graphs.sleep(60, seed=14))
    with follow(person, execution_id) as stream:
        stream.until("status", status="running")
        asked = time.monotonic()
        person.post(f"/workflows/{execution_id}/cancel")
        told = stream.until("status", status="cancelled").at
        assert told - asked < 10, "not only by the look every 15 s"
        assert stream.rest()[-1].name == "end"


# -- who may follow --------------------------------------------------------------------------------------
def test_the_signed_address_needs_no_header(gpu_worker):
    person = gpu_worker.person()
    execution_id = person.execute(graphs.colour(0x010101))
    url = person.get(f"/workflows/{execution_id}").json()["events_url"]
    with EventStream(url) as stream:
        assert statuses(stream.rest())[-1] == "completed"


@pytest.mark.parametrize("change", [("expires=", "expires=9"), ("signature=", "signature=x")])
def test_an_altered_address_is_refused(stack, change):
    person = stack.person()
    execution_id = person.execute(graphs.colour(1))
    url = person.get(f"/workflows/{execution_id}").json()["events_url"].replace(*change)
    answer = requests.get(url, timeout=30)
    assert answer.status_code == 401
    assert answer.json()["error"] == "unauthorized"


def test_without_a_token_it_is_401_in_the_usual_shape(stack):
    for path in ("/workflows/events", "/workflows/5f1b1f9e-0000-4000-8000-000000000000/events"):
        answer = requests.get(stack.url + path, headers={"Accept": "text/event-stream"}, timeout=30)
        assert answer.status_code == 401
        assert set(answer.json()) == {"error", "message", "details", "timestamp", "request_id"}


def test_another_users_execution_is_404(stack):
    execution_id = stack.person().execute(graphs.colour(1))
    stranger = stack.person()
    assert follow(stranger, execution_id).status == 404
    assert follow(stranger, "no-uuid").status == 404


# -- all of a user ---------------------------------------------------------------------------------------
def test_one_connection_follows_all_executions_of_one_user_only(gpu_worker):
    person, other = gpu_worker.person(), gpu_worker.person()
    with follow(person) as stream:
        first = person.execute(graphs.colour(0x101010))
        foreign = other.execute(graphs.colour(0x202020))
        second = person.execute(graphs.colour(0x303030))
        other.result(foreign)
        for execution_id in (first, second):
            if not any(
                e.data.get("status") == "completed" and e.data["execution_id"] == execution_id
                for e in stream.seen
            ):
                stream.until("status", status="completed", execution_id=execution_id)
    mine = [event for event in stream.seen if event.data["execution_id"] == first]
    assert statuses(mine) == ["pending", "running", "completed"]
    assert foreign not in {event.data["execution_id"] for event in stream.seen}


def test_all_begins_with_what_is_alive(gpu_worker):
    person = gpu_worker.person()
    execution_id = person.execute(graphs.sleep(60, seed=15))
    try:
        with follow(person) as stream:
            assert stream.until("status").data["execution_id"] == execution_id
    finally:
        person.post(f"/workflows/{execution_id}/cancel")


def test_a_stream_of_all_executions_resumes_after_a_disconnect(gpu_worker):
    person = gpu_worker.person()
    with follow(person) as stream:
        first = person.execute(graphs.colour(0x404040))
        last = stream.until("status", status="completed", execution_id=first).id
    second = person.execute(graphs.colour(0x505050))
    person.result(second)
    with follow(person, last=last) as stream:
        stream.until("status", status="completed", execution_id=second)
    mine = [event for event in stream.seen if event.data["execution_id"] == second]
    assert statuses(mine) == ["pending", "running", "completed"]


def run_to_its_end(person):
    """The number of its last line, as a stream of all tells it."""
    with follow(person) as stream:
        return stream.until("status", status="completed", execution_id=person.execute(graphs.colour(7))).id


def test_a_stream_of_one_takes_nothing_from_the_stream_of_all(gpu_worker):
    """Where nobody told us of an execution, whoever follows it by name makes it known to the process."""
    person = gpu_worker.person()
    run_to_its_end(person)
    with follow(person) as stream:
        marker = person.execute(graphs.colour(20))
        stream.until("status", status="completed", execution_id=marker)
        unknown = str(uuid.uuid4())
        # As after a word that was lost: only the database has it.
        gpu_worker.sql(
            "INSERT INTO workflows_execution"
            " SELECT (jsonb_populate_record(e, jsonb_build_object('id', %s::text))).*"
            " FROM workflows_execution e WHERE id = %s",
            unknown,
            marker,
        )
        gpu_worker.sql(
            "INSERT INTO workflows_logline (execution_id, level, message, kind, data)"
            " VALUES (%s, 'INFO', 'done', 'status', '{\"status\": \"completed\"}')",
            unknown,
        )
        with follow(person, unknown) as one:
            one.rest()
        stream.until("status", status="completed", execution_id=unknown, seconds=40)


def test_every_missed_end_is_reported_once(gpu_worker):
    person = gpu_worker.person()
    last = run_to_its_end(person)
    ids = [person.execute(graphs.sleep(60, seed=seed)) for seed in range(100, 140)]
    gpu_worker.sql(
        "INSERT INTO workflows_logline (execution_id, level, message, kind)"
        " SELECT e.id, 'INFO', 'line ' || n, 'log' FROM workflows_execution e, generate_series(1, 30) n"
        " WHERE e.id = ANY(%s::uuid[])",
        ids,
    )
    for execution_id in ids[::-1]:
        person.post(f"/workflows/{execution_id}/cancel")
    gpu_worker.sql(
        "UPDATE workflows_execution SET completed_at = completed_at - interval '5 minutes',"
        " created_at = created_at - interval '5 minutes' WHERE id = ANY(%s::uuid[])",
        ids,
    )
    gpu_worker.sql(
        "UPDATE workflows_logline SET timestamp = timestamp - interval '5 minutes' WHERE id <= %s", last
    )
    with follow(person, last=last) as stream:
        marker = person.execute(graphs.colour(8))
        stream.until("status", status="completed", execution_id=marker)
    told = [
        event.data["execution_id"]
        for event in stream.seen
        if event.name == "status" and event.data["status"] == "cancelled"
    ]
    assert sorted(told) == sorted(ids)
    assert "gap" not in {event.name for event in stream.seen}


def test_an_end_whose_commit_was_slow_is_replayed_after_a_reconnect(gpu_worker):
    person = gpu_worker.person()
    late = person.execute(graphs.sleep(60, seed=141))
    wait_for(lambda: person.get(f"/workflows/{late}/status").json()["status"] == "running", what="it to run")
    person.post(f"/workflows/{late}/cancel")
    with psycopg.connect(gpu_worker.database_url) as session:
        # As if the end had been written eight seconds before it could be seen.
        session.execute("DELETE FROM workflows_logline WHERE execution_id = %s AND data IS NOT NULL", [late])
        session.commit()
        session.execute(
            "INSERT INTO workflows_logline (execution_id, level, message, kind, data, timestamp)"
            " VALUES (%s, 'INFO', 'late', 'status', '{\"status\": \"cancelled\"}', now() - interval '8 s')",
            [late],
        )
        session.execute(
            "UPDATE workflows_execution SET completed_at = now() - interval '8 s' WHERE id = %s", [late]
        )
        last = run_to_its_end(person)
        session.commit()
    with follow(person, last=last) as stream:
        stream.until("status", status="cancelled", execution_id=late)


@pytest.mark.parametrize("deleted_by", ["its user", "retention"])
def test_reconnecting_after_a_deleted_line_reports_the_gap(gpu_worker, deleted_by):
    person = gpu_worker.person()
    with follow(person) as stream:
        execution_id = person.execute(graphs.colour(9))
        last = stream.until("status", status="completed", execution_id=execution_id).id
    missed = person.execute(graphs.colour(10))
    person.result(missed)
    if deleted_by == "its user":
        person.session.delete(f"{gpu_worker.url}/workflows/{execution_id}", timeout=30).raise_for_status()
    else:
        gpu_worker.sql("DELETE FROM workflows_logline WHERE execution_id = %s", execution_id)
    with follow(person, last=last) as stream:
        gap = stream.until("gap")
        assert gap.id is None
        assert set(gap.data) == {"message"}
        stream.until("status", status="completed", execution_id=missed)
    assert stream.seen[0] == gap


# -- previews --------------------------------------------------------------------------------------------
def test_previews_are_sent_only_if_requested(gpu_worker):
    person = gpu_worker.person()
    execution_id = person.execute(graphs.txt2img(steps=1000, seed=16))
    try:
        opened = time.monotonic()
        with (
            follow(person, execution_id, query="?previews=1") as shown,
            follow(person, execution_id) as plain,
        ):
            preview = shown.until("preview").data
            plain.until("progress")
            assert preview["image"].startswith("data:image/jpeg;base64,")
            assert len(preview["image"]) < 40_000
            began = time.monotonic()
            while time.monotonic() - began < 3:
                assert shown.next() is not None
            count = sum(event.name == "preview" for event in shown.seen)
            assert 1 < count <= 5 * (time.monotonic() - opened), "at most four a second"
            plain.until("progress")
        assert "preview" not in {event.name for event in plain.seen}
    finally:
        person.post(f"/workflows/{execution_id}/cancel")


# -- faults ----------------------------------------------------------------------------------------------
def test_the_end_is_found_without_a_notification(gpu_worker):
    """The row changes behind everybody's back; a stream looks again within 15 s."""
    person = gpu_worker.person()
    execution_id = person.execute(graphs.sleep(60, seed=17))
    with follow(person, execution_id) as stream:
        stream.until("status", status="running")
        gpu_worker.sql(
            "INSERT INTO workflows_logline (execution_id, level, message, kind, data) "
            "VALUES (%s, 'INFO', 'behind', 'log', NULL)",
            execution_id,
        )
        stream.until("log", message="behind", seconds=40)
    person.post(f"/workflows/{execution_id}/cancel")


def test_an_idle_stream_gets_heartbeats(idle):
    wait_for(lambda: idle.comments, seconds=40, what="a heartbeat")
