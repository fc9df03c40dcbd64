"""How workers hear of work: the word to an idle one, and Celery's ticket where none is idle."""

from __future__ import annotations

import threading

import pytest
import redis
from django.conf import settings

from comfyserve import tickets
from tests.waiting import wait_for
from tests.workflows import graphs
from tests.workflows.rig import sleep
from workflows import notify
from workflows.worker.wake import WakeListener


@pytest.fixture
def sent(monkeypatch):
    """Celery's tickets, which nobody receives here. No wake-up is left of other tests."""
    found: list[str] = []
    monkeypatch.setattr(notify, "_away_until", 0.0)
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.delete(notify.wake_key("gpu"))
    monkeypatch.setattr(tickets, "send", lambda task, *, queue: found.append(queue))
    return found


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
    running = listening.submit(sleep(1.0))
    listening.comfyui.wait_for(lambda: listening.comfyui.running == running)
    listening.submit(graphs.colour(2))
    wait_for(lambda: sent == ["gpu"], what="the ticket")
    listening.ends(running, "completed")


def test_a_word_is_for_one_worker_only(rig, sent):
    """Two wait; one word wakes one of them."""
    woken: list[int] = []

    def take(number: int) -> None:
        with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=10) as client:
            if client.blpop([notify.wake_key("gpu")], timeout=1):
                woken.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    notify.ticket()
    for thread in threads:
        thread.join()
    assert len(woken) == 1
