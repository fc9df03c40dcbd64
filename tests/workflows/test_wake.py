"""Waking workers: a message to an idle one, and Celery's ticket if none is idle."""

from __future__ import annotations

import itertools
import json
import threading
import time
from types import SimpleNamespace

import pytest
import redis
from django.conf import settings
from django.test import TestCase

from comfyserve import tickets
from script.harness import graphs
from script.harness.waiting import wait_for
from tests.workflows.rig import gated
from workflows import delayed_tickets, notify
from workflows.queue import matching, state_machine
from workflows.worker.wake import WakeListener


@pytest.fixture
def sent(monkeypatch):
    """Celery's tickets, which nobody receives here. No wake-up is left of other tests."""
    found: list[str] = []
    monkeypatch.setattr(tickets, "send", lambda task, *, queue: found.append(queue))
    # A wake-up is not sent if Redis takes longer than a second, as it may on a busy machine.
    with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=20) as client:
        client.delete(notify.wake_key("gpu"))
        monkeypatch.setattr(notify, "_redis", client)
        yield found


@pytest.fixture
def listening(rig):
    listener = WakeListener(rig.slots)
    listener.start()
    yield rig
    listener.stop()
    listener.join(timeout=20)


def test_an_idle_worker_begins_without_a_celery_ticket(listening, sent):
    listening.ends(listening.submit(graphs.colour(1)), "completed")
    listening.is_clear()


def test_a_busy_worker_is_sent_a_celery_ticket(listening, sent):
    running = listening.submit(gated())
    listening.comfyui.wait_for(lambda: listening.comfyui.running == running)
    before = len(sent)  # on a busy machine the first wake-up may not be taken at once
    listening.submit(graphs.colour(2))
    wait_for(lambda: sent[before:] == ["gpu"], what="the ticket")
    listening.comfyui.gate.set()
    listening.ends(running, "completed")


def test_many_submissions_in_a_row_send_few_celery_tickets():
    sent: list[float] = []
    delayed = delayed_tickets.DelayedTickets(lambda _: sent.append(time.monotonic()))

    def submitted() -> bool:
        delayed.add("gpu")
        return len(sent) >= 4

    wait_for(submitted, what="four tickets")
    gaps = [later - earlier for earlier, later in itertools.pairwise(sent)]
    assert min(gaps) >= delayed_tickets.SPACING


def test_a_command_is_for_one_worker_only(rig, sent):
    """Two wait, and each command wakes one of them."""
    woken: list[int] = []

    def take(number: int) -> None:
        with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=30) as client:
            if client.blpop([notify.wake_key("gpu")], timeout=20):
                woken.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    notify.ticket()
    wait_for(lambda: woken, what="one of them to wake")
    assert len(woken) == 1
    notify.ticket()
    for thread in threads:
        thread.join()
    assert sorted(woken) == [0, 1]
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        assert client.llen(notify.wake_key("gpu")) == 0


def test_a_wake_up_that_is_taken_at_once_needs_no_look_later(sent, monkeypatch):
    later: list[str] = []
    monkeypatch.setattr(notify, "_delayed_tickets", SimpleNamespace(add=later.append))
    with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=30, client_name="idle") as client:
        waiting = threading.Thread(target=client.blpop, args=([notify.wake_key("gpu")], 20))
        waiting.start()
        wait_for(
            lambda: [c for c in client.client_list() if c["name"] == "idle" and "b" in c["flags"]],
            what="it to wait",
        )
        notify.ticket()
        waiting.join()
        assert later == []
        notify.ticket()
        assert later == ["gpu"]


def test_wake_ups_that_nobody_takes_do_not_accumulate(sent):
    with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=20) as client:
        for _ in range(notify.MAX_WAKE_UPS + 20):
            notify.ticket()
        wait_for(lambda: client.llen(notify.wake_key("gpu")) == notify.MAX_WAKE_UPS, what="the rest to go")
        assert 0 < client.ttl(notify.wake_key("gpu")) <= notify.WAKE_UP_SECONDS
        client.delete(notify.wake_key("gpu"))


def test_unconsumed_tickets_neither_accumulate_nor_stay():
    """No worker lives for a night; each submission sent one."""
    queue = "gpu.nobody"
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        for _ in range(tickets.MAX_WAITING + 20):
            tickets.send(notify.LOOK_FOR_WORK, queue=queue)
        assert client.llen(queue) == tickets.MAX_WAITING
        assert 0 < client.ttl(queue) <= tickets.KEPT_SECONDS
        [last] = client.lrange(queue, 0, 0)
        client.delete(queue)
    assert json.loads(last)["headers"]["expires"]


def test_a_submission_wakes_no_more_than_some_of_a_large_fleet(alice, monkeypatch):
    woken: list[str | None] = []
    monkeypatch.setattr(notify, "submitted", lambda _, workers: woken.extend(workers))
    fleet = [f"gpu{number}" for number in range(200)]
    monkeypatch.setattr(matching, "suited", lambda *_: matching.Suited(lacking=["other"], able=fleet))
    with TestCase.captureOnCommitCallbacks(execute=True):
        assert alice.post("/workflows/execute", {"workflow": graphs.colour(1)}).status_code == 200
    assert 0 < len(woken) <= state_machine.MOST_TICKETS
    assert set(woken) <= set(fleet)


def test_nothing_is_claimed_for_a_comfyui_until_it_is_checked_again(rig, sent):
    """It was restarted: what it can do now is known only after the next look."""
    assert rig.slots.may_claim
    before = rig.backend.session.generation
    rig.backend.session.reconnect()
    wait_for(lambda: rig.backend.session.generation > before, what="the new connection")
    assert not rig.slots.may_claim
    waiting = rig.submit(graphs.colour(1))
    rig.slots.serve()
    assert rig.status(waiting) == "pending"
    assert rig.backend.refresh()
    assert rig.slots.may_claim
    rig.slots.serve()
    rig.ends(waiting, "completed")
