"""A submission with `Accept: text/event-stream`: accepted, followed and completed in one request."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import uuid
from pathlib import Path
from typing import Any

import pytest
import requests
from django.core.handlers.base import BaseHandler
from django.db import OperationalError

from script.harness import graphs
from script.harness.sse import Event, EventStream, follow, statuses, submit
from script.harness.stack import Person, Stack
from script.harness.waiting import wait_for
from workflows.streaming import asgi
from workflows.streaming.subscriber import Reader

EVENTS = "text/event-stream"


@pytest.fixture
def person(gpu_worker):
    return gpu_worker.person()


def numbers(events: list[Event]) -> list[int]:
    return [event.id for event in events if event.id is not None]


def stored_numbers(stack: Stack, execution_id: str) -> list[int]:
    lines = stack.sql("SELECT id FROM workflows_logline WHERE execution_id = %s ORDER BY id", execution_id)
    return [number for (number,) in lines]


def accepted(stream: EventStream) -> dict[str, Any]:
    first = stream.next()
    assert first is not None
    assert (first.name, first.id) == ("accepted", None)
    return first.data


def test_it_reports_a_run_from_its_acceptance_to_its_end(gpu_worker, person):
    with submit(person, {"workflow": graphs.colour(0x446688)}) as stream:
        assert stream.status == 200
        assert stream.headers["Content-Type"].startswith(EVENTS)
        execution = accepted(stream)
        seen = stream.rest()
    execution_id = execution["execution_id"]
    assert execution["status"] == "pending"
    assert set(execution) >= {"created_at", "estimated_duration", "queue_position", "events_url"}
    assert statuses(seen) == ["pending", "running", "completed"]
    assert numbers(seen) == stored_numbers(gpu_worker, execution_id)
    assert {"log", "node", "output"} <= {event.name for event in seen}
    assert (seen[-1].name, seen[-1].data) == ("end", {})
    assert all(event.data["execution_id"] == execution_id for event in seen[:-1])


def test_progress_is_sent_while_it_runs(person, comfyui):
    gate = uuid.uuid4().hex
    with submit(person, {"workflow": graphs.gate(gate, steps=1000)}) as stream:
        first = stream.until("progress").data["percentage"]
        while stream.until("progress").data["percentage"] <= first:
            pass
        comfyui.open_gate(gate)
        assert stream.rest()[-1].name == "end"


def test_previews_are_sent_if_requested(person):
    path = "/workflows/execute?previews=1"
    with submit(person, {"workflow": graphs.txt2img(steps=1000, seed=61)}, path) as stream:
        execution_id = accepted(stream)["execution_id"]
        assert stream.until("preview").data["image"].startswith("data:image/jpeg;base64,")
        person.post(f"/workflows/{execution_id}/cancel")
        stream.until("status", status="cancelled")


def test_one_that_waits_is_accepted_with_its_position(bare_stack):
    person = bare_stack.person()
    with submit(person, {"workflow": graphs.colour(1)}) as stream:
        execution = accepted(stream)
        assert execution["queue_position"] == 1
        person.post(f"/workflows/{execution['execution_id']}/cancel")
        seen = stream.rest()
    assert statuses(seen) == ["pending", "cancelled"]
    assert seen[-1].name == "end"


def test_an_app_runs_in_a_stream_too(person):
    body = {"name": "streamed", "workflow": graphs.colour(0x446687), "inputs": []}
    assert person.post("/apps/", body).status_code == 201
    with submit(person, {"inputs": {}}, "/apps/streamed/run?include=result") as stream:
        assert accepted(stream)["app"].endswith("/streamed")
        end = stream.until("end").data
    assert end["status"] == "completed"
    assert end["named_outputs"]


# -- the result at the end -------------------------------------------------------------------------------
def test_the_end_has_the_result_if_requested(person):
    body = {"workflow": graphs.colour(0x446686)}
    with submit(person, body, "/workflows/execute?include=result") as stream:
        execution_id = accepted(stream)["execution_id"]
        end = stream.until("end").data
    got = person.get(f"/workflows/{execution_id}").json()
    assert set(got) - set(end) == {"events_url"}
    assert end == {name: value for name, value in got.items() if name != "events_url"}


def test_the_end_has_the_files_if_requested(person):
    body = {"workflow": graphs.colour(0x446685)}
    with submit(person, body, "/workflows/execute?include=data") as stream:
        [image] = stream.until("end").data["outputs"]["images"]
    assert base64.b64decode(image["data"]) == requests.get(image["url"], timeout=30).content


def test_a_large_end_comes_whole(person):
    """It waits on disk for its client."""
    graph = graphs.colour(0)
    noise = {"width": 512, "height": 512, "batch_size": 1, "color": 0}
    graph["1"]["inputs"] = noise
    graph["3"] = {"class_type": "ImageAddNoise", "inputs": {"image": ["1", 0], "seed": 3, "strength": 1.0}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    with submit(person, {"workflow": graph}, "/workflows/execute?include=data") as stream:
        end = stream.until("end").data
    assert end["status"] == "completed", end
    [image] = end["outputs"]["images"]
    assert image["size"] > 300_000
    assert base64.b64decode(image["data"]) == requests.get(image["url"], timeout=30).content


def test_the_other_events_do_not_wait_for_the_files(gpu_worker, person):
    with submit(person, {"workflow": graphs.colour(0x44667E)}, "/workflows/execute?include=result") as stream:
        end = stream.until("end").data
    [image] = end["outputs"]["images"]
    [[key]] = gpu_worker.sql("SELECT key FROM files_file WHERE id = %s", image["file_id"])
    path = Path(gpu_worker.env["DATA_DIR"]) / "files" / key
    path.unlink()
    os.mkfifo(path)  # opening it takes until somebody writes to it; it cannot be read as a file
    with follow(person, end["execution_id"], query="?include=data") as stream:
        stream.until("status", status="completed")
        path.open("wb").close()
        [image] = stream.until("end").data["outputs"]["images"]
    assert image["data"] is None


def test_a_failure_ends_with_its_result_too(person):
    graph = graphs.colour(1)
    graph["3"] = {"class_type": "TestFail", "inputs": {"image": ["1", 0], "message": "it broke"}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    with submit(person, {"workflow": graph}, "/workflows/execute?include=result,data") as stream:
        end = stream.until("end").data
    assert end["status"] == "failed"
    assert end["error_details"]


def test_line_breaks_in_metadata_do_not_break_the_event(person):
    body = b'{"workflow": %s, "metadata": {"a":\r\n 1,\n"b": "\\n"}}' % json.dumps(graphs.colour(2)).encode()
    headers = {"Authorization": person.session.headers["Authorization"], "Accept": EVENTS}
    headers["Content-Type"] = "application/json"
    url = f"{person.url}/workflows/execute?include=result"
    with EventStream(url, method="POST", data=body, headers=headers) as stream:
        assert stream.until("end").data["metadata"] == {"a": 1, "b": "\n"}


def test_a_stream_of_one_that_was_submitted_before_has_it_too(person):
    execution_id = person.execute(graphs.colour(0x446684))
    with follow(person, execution_id, query="?include=data") as stream:
        end = stream.until("end").data
    [image] = end["outputs"]["images"]
    assert image["data"]


# -- interruptions ---------------------------------------------------------------------------------------
def test_a_client_continues_where_its_connection_broke(gpu_worker, person, comfyui):
    gate = uuid.uuid4().hex
    body = {"workflow": graphs.gate(gate, steps=1000)}
    with submit(person, body, "/workflows/execute?include=result") as stream:
        execution = accepted(stream)
        stream.until("status", status="running")
    before = numbers(stream.seen)
    comfyui.open_gate(gate)
    url = f"{execution['events_url']}&include=result"
    headers = {"Authorization": person.session.headers["Authorization"], "Last-Event-ID": str(before[-1])}
    with EventStream(url, headers=headers) as stream:
        end = stream.until("end").data
    assert before + numbers(stream.seen) == stored_numbers(gpu_worker, execution["execution_id"])
    assert end["status"] == "completed"


@pytest.mark.parametrize("include", ["result", "data"])
def test_one_that_only_missed_the_end_gets_it(person, include):
    with submit(person, {"workflow": graphs.colour(0x446683)}) as stream:
        execution_id = accepted(stream)["execution_id"]
        last = numbers(stream.rest())[-1]
    with follow(person, execution_id, query=f"?include={include}", last=last) as stream:
        [end] = stream.rest()
    assert end.name == "end"
    assert ("data" in end.data["outputs"]["images"][0]) == (include == "data")
    assert follow(person, execution_id, last=last).status == 204


def test_the_signed_url_alone_gives_events_and_not_the_result(person):
    with submit(person, {"workflow": graphs.colour(0x446682)}) as stream:
        url = accepted(stream)["events_url"]
        stream.rest()
    with EventStream(url) as stream:
        assert statuses(stream.rest())[-1] == "completed"
    refused = requests.get(f"{url}&include=result", timeout=30)
    assert refused.status_code == 401
    assert refused.json()["error"] == "unauthorized"


def test_what_was_accepted_is_sent_although_the_database_is_unavailable(monkeypatch):
    """It may have to be read, such as after Redis was unavailable."""

    async def fail(*_: object, **__: object) -> list[object]:
        raise OperationalError

    async def sent() -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            messages.append(message)

        streams = asgi.Streams(BaseHandler())
        monkeypatch.setattr(streams.broadcaster, "catch_up", fail)
        follow = asgi.Follow(Reader(user_id=1, execution_id=uuid.uuid4()), "", first=b"accepted")
        await streams._send_events(follow, send, since=None)
        return messages

    [last] = asyncio.run(sent())
    assert last["body"] == asgi.RETRY_HINT + b"accepted"
    assert not last["more_body"]


def test_the_execution_goes_on_without_its_client(person):
    with submit(person, {"workflow": graphs.colour(0x446681)}) as stream:
        execution_id = accepted(stream)["execution_id"]
    assert person.result(execution_id)["status"] == "completed"


# -- what is streamed, and what is not -------------------------------------------------------------------
@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream", True),
        ("text/event-stream; charset=utf-8", True),
        ('text/event-stream;charset="UTF-8";q=0.9 , application/json;q=0.5', True),
        ("application/json;q=0, text/event-stream;q=0.1", True),
        ("application/json; charset=utf-8, text/event-stream; charset=utf-8", False),
        ("text/event-stream; charset=utf-8; q=0, */*", False),
        ("text/event-stream, */*", True),
        ("text/event-stream, application/json;q=0.9", True),
        ("application/json, text/event-stream", False),
        ("application/json, text/event-stream;q=0.5", False),
        ("text/event-stream;q=0.1, */*", False),
        ("*/*", False),
    ],
)
def test_it_is_streamed_to_those_who_prefer_that(bare_stack, accept, streams):
    person = bare_stack.person()
    with submit(person, {"workflow": graphs.colour(1)}, Accept=accept) as stream:
        assert stream.status == 200
        assert stream.headers["Content-Type"].startswith(EVENTS if streams else "application/json")


def test_a_stream_does_not_wait_as_well(person):
    with submit(person, {"workflow": graphs.colour(0x446680)}, Prefer="wait=30") as stream:
        assert "Preference-Applied" not in stream.headers
        assert accepted(stream)["status"] == "pending"


def test_errors_are_json(stack):
    person = stack.person()
    url, headers = f"{person.url}/workflows/execute", {"Accept": EVENTS}
    refused = requests.post(url, json={"workflow": graphs.colour(1)}, headers=headers, timeout=30)
    assert refused.status_code == 401
    assert refused.json()["error"] == "unauthorized"
    headers["Authorization"] = str(person.session.headers["Authorization"])
    for path, body in ((url, {"workflow": {}}), (f"{url}?include=all", {"workflow": graphs.colour(1)})):
        refused = requests.post(path, json=body, headers=headers, timeout=30)
        assert refused.status_code == 400
        assert refused.headers["Content-Type"].startswith("application/json")
        assert refused.json()["error"] == "validation_error"
    assert person.get("/workflows/").json() == []


def test_a_replay_is_the_stream_of_the_same_execution(gpu_worker, person):
    body, key = {"workflow": graphs.colour(0x44667F)}, {"Idempotency-Key": uuid.uuid4().hex}
    with submit(person, body, **key) as stream:
        first = accepted(stream)
        stream.rest()
    with submit(person, body, **key) as stream:
        assert stream.headers["Idempotency-Replayed"] == "true"
        again = accepted(stream)
        seen = stream.rest()
    assert again["execution_id"] == first["execution_id"]
    assert numbers(seen) == stored_numbers(gpu_worker, first["execution_id"])
    assert seen[-1].name == "end"
    assert len(person.get("/workflows/").json()) == 1


def test_too_many_streams_are_refused_before_anything_is_submitted(bare_stack):
    bare_stack.start_web(env={"STREAMS_PER_USER": "1"})
    try:
        person = bare_stack.person()
        with submit(person, {"workflow": graphs.colour(1)}) as stream:
            accepted(stream)
            with submit(person, {"workflow": graphs.colour(2)}) as refused:
                assert refused.status == 429
                assert refused.headers["Content-Type"].startswith("application/json")
                assert int(refused.headers["Retry-After"]) > 0
        assert len(person.get("/workflows/").json()) == 1

        def is_free() -> bool:
            with submit(person, {"workflow": graphs.colour(3)}) as later:
                return later.status == 200

        wait_for(is_free, what="the place of the closed stream")
    finally:
        bare_stack.stop_web()


def log_out(person: Person) -> None:
    assert person.post("/auth/logout").ok


def test_it_ends_when_its_credential_is_revoked(bare_stack):
    person = bare_stack.person()
    with submit(person, {"workflow": graphs.colour(1)}, "/workflows/execute?include=data") as stream:
        accepted(stream)
        log_out(person)
        assert "end" not in {event.name for event in stream.rest(seconds=30)}
