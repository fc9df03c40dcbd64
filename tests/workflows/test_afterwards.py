"""What follows the end of an execution is done later, and delays neither waiting work nor a stop."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from script.harness import graphs
from script.harness.waiting import wait_for
from tests.workflows.rig import gated
from workflows.queue import claims
from workflows.worker import afterwards, finalize, follow_ups
from workflows.worker.afterwards import Afterwards

NEVER = 3600.0


@pytest.fixture
def never(monkeypatch):
    """Nothing is done until it has to be."""
    monkeypatch.setattr(afterwards, "DELAY_SECONDS", NEVER)
    monkeypatch.setattr(afterwards, "MAX_DELAY_SECONDS", NEVER)


def test_waiting_work_is_claimed_at_once(rig, never):
    waiting = [rig.submit(graphs.colour(number)) for number in range(3)]
    rig.slots.serve_in_thread()
    for execution_id in waiting:
        rig.ends(execution_id, "completed")


def test_work_whose_wake_up_was_lost_is_found_by_polling(rig, monkeypatch):
    claimed, go_on = threading.Event(), threading.Event()
    take = claims.take

    def slowly(**arguments):
        claim = take(**arguments)
        claimed.set()
        go_on.wait(20)
        return claim

    monkeypatch.setattr(claims, "take", slowly)
    first = rig.run(graphs.colour(1))
    assert claimed.wait(20)
    second = rig.submit(graphs.colour(2))  # nothing tells the worker of it
    go_on.set()
    rig.ends(first, "completed")
    rig.ends(second, "completed")


def test_work_is_found_by_polling_though_the_slot_was_freed_late(rig, monkeypatch):
    add = rig.slots._follow_ups.add
    waiting: list[str] = []

    def add_and_wait(job, *, name=""):
        add(job, name=name)
        if name == "slot freed" and not waiting:
            wait_for(lambda: rig.slots._follow_ups.empty, what="the job to have run")
            waiting.append(rig.submit(graphs.colour(2)))

    monkeypatch.setattr(rig.slots._follow_ups, "add", add_and_wait)
    rig.ends(rig.run(graphs.colour(1)), "completed")
    wait_for(lambda: waiting, what="the second to be submitted")
    rig.ends(waiting[0], "completed")


def test_follow_up_jobs_are_done_before_the_worker_ends(rig, never):
    execution_id = rig.run(graphs.colour(1))
    rig.ends(execution_id, "completed")
    assert not rig.slots.wait_empty(timeout=0.2)
    assert rig.backend.client.history(execution_id) is not None
    rig.slots.stop(drain_seconds=0)
    assert rig.slots.wait_empty(timeout=20)
    assert rig.backend.client.history(execution_id) is None


def test_too_much_of_it_is_done_by_the_caller(never, monkeypatch):
    monkeypatch.setattr(afterwards, "MAX_WAITING", 1)
    done: list[str] = []
    later = Afterwards(changed=lambda: None)
    later.add(lambda: done.append(threading.current_thread().name))
    assert done == []
    later.add(lambda: done.append(threading.current_thread().name))
    assert done == [threading.current_thread().name]
    later.stop_delaying()
    wait_for(lambda: later.empty, what="the rest to be done")
    assert done[1:] == ["afterwards"]


def test_an_error_stops_nothing_that_follows():
    done = threading.Event()

    def fail() -> None:
        raise RuntimeError("on purpose")

    later = Afterwards(changed=lambda: None)
    later.add(fail)
    later.add(done.set)
    assert done.wait(20)


def test_what_follows_several_executions_is_done_once_for_all(rig, never, monkeypatch):
    requests = _count_requests(rig.backend.client, monkeypatch)
    ended = [rig.run(graphs.colour(number)) for number in range(3)]
    for execution_id in ended:
        rig.ends(execution_id, "completed")
    # What follows an end is added a moment after it is recorded.
    wait_for(lambda: not rig.slots._is_busy(), what="all of it to be waiting")
    assert all(rig.backend.client.history(execution_id) for execution_id in ended)
    requests.clear()
    rig.slots.stop(drain_seconds=0)
    assert rig.slots.wait_empty(timeout=20)
    assert not any(rig.backend.client.history(execution_id) for execution_id in ended)
    assert [path for method, path in requests if method == "POST"] == ["/history"]


def _count_requests(client, monkeypatch):
    requests: list[tuple[str, str]] = []
    send = client._request

    def recorded(method, path, **options):
        requests.append((method, path))
        return send(method, path, **options)

    monkeypatch.setattr(client, "_request", recorded)
    return requests


def test_while_executions_follow_one_another_it_is_put_off_for_a_limited_time(monkeypatch):
    monkeypatch.setattr(afterwards, "DELAY_SECONDS", 0.01)
    monkeypatch.setattr(afterwards, "MAX_DELAY_SECONDS", 0.3)
    done = threading.Event()
    later = Afterwards(busy=lambda: True)
    began = time.monotonic()
    later.add(done.set)
    assert done.wait(20)
    assert time.monotonic() - began >= 0.3


def test_jobs_of_one_name_are_done_once(never):
    done: list[int] = []
    later = Afterwards()
    for number in range(3):
        later.add(partial(done.append, number), name="same")
    later.stop_delaying()
    wait_for(lambda: later.empty, what="the job to be done")
    assert done == [0]


@pytest.fixture
def made(monkeypatch):
    """Set once thumbnails are made."""
    event = threading.Event()
    monkeypatch.setattr(finalize, "make_thumbnails", lambda outputs: event.set())
    return event


def _run_followed_by_one_at_the_gate(rig) -> list[str]:
    """The first has ended, the second runs until `comfyui.gate` is set; the worker was busy all the time."""
    ids = [rig.submit(graphs.colour(1)), rig.submit(gated())]
    rig.slots.serve_in_thread()
    rig.ends(ids[0], "completed")
    wait_for(lambda: rig.status(ids[1]) == "running", what="the second to run")
    return ids


def test_thumbnails_wait_while_very_short_runs_follow_one_another(rig, made, monkeypatch):
    monkeypatch.setattr(follow_ups, "PAUSE_SECONDS", NEVER)
    _, second = _run_followed_by_one_at_the_gate(rig)
    assert not made.wait(0.3)
    rig.comfyui.gate.set()
    rig.ends(second, "completed")
    assert made.wait(20)


def test_thumbnails_are_made_while_a_longer_run_is_in_progress(rig, made):
    _, second = _run_followed_by_one_at_the_gate(rig)
    assert made.wait(20)
    rig.comfyui.gate.set()
    rig.ends(second, "completed")
