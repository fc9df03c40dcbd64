from __future__ import annotations

import threading

import pytest

from comfyui import Subscription, events
from comfyui.events import Ended, Executed, Executing, Preview, Progress, ProgressState, Started


@pytest.fixture
def subscription():
    return Subscription("p", on_close=lambda _: None, capacity=4)


def waiting(subscription: Subscription) -> list[events.Event]:
    """All that waits, in order."""
    return list(iter(lambda: subscription.get(0), None))


def step(number: float, node: str = "1") -> Progress:
    return Progress("p", node, number, 100)


class TestOrder:
    def test_first_in_first_out(self, subscription):
        put = [Started("p"), Executing("p", "1"), Ended("p")]
        for event in put:
            subscription.put(event)
        assert waiting(subscription) == put

    def test_none_if_no_event_arrives_in_time(self, subscription):
        assert subscription.get(0.01) is None

    def test_a_reader_is_woken(self, subscription):
        timer = threading.Timer(0.05, subscription.wake)
        timer.start()
        assert subscription.get(20) is None
        timer.join()

    def test_a_wake_up_before_the_reader_waits_is_not_lost(self, subscription):
        subscription.wake()
        assert subscription.get(20) is None

    def test_queued_events_come_before_the_wake_up(self, subscription):
        subscription.put(Started("p"))
        subscription.wake()
        assert subscription.get(20) == Started("p")
        assert subscription.get(20) is None


class TestProgress:
    def test_only_the_newest_of_a_node_waits(self, subscription):
        for number in range(10):
            subscription.put(step(number))
        assert waiting(subscription) == [step(9)]

    def test_kinds_and_nodes_are_kept_apart(self, subscription):
        preview, state = Preview("p", "1", "image/png", b""), ProgressState("p", {})
        for event in (step(1), preview, state, step(1, "2"), step(2), step(2, "2")):
            subscription.put(event)
        assert waiting(subscription) == [preview, state, step(2), step(2, "2")]

    def test_events_before_another_kind_keep_their_place(self, subscription):
        for event in (step(1), Executing("p", "1"), step(2)):
            subscription.put(event)
        assert waiting(subscription) == [step(1), Executing("p", "1"), step(2)]


class TestWhenFull:
    def test_progress_goes_first(self, subscription):
        others = [Executing("p", str(number)) for number in range(4)]
        for event in (others[0], step(1), *others[1:]):
            subscription.put(event)
        assert waiting(subscription) == others
        assert subscription.dropped == 0

    def test_then_the_oldest_without_an_end_is_dropped(self, subscription):
        for event in (Started("p"), Executed("p", "1", {}), Executed("p", "2", {}), Executed("p", "3", {})):
            subscription.put(event)
        subscription.put(Ended("p"))
        assert waiting(subscription) == [
            Started("p"),
            Executed("p", "2", {}),
            Executed("p", "3", {}),
            Ended("p"),
        ]
        assert subscription.dropped == 1

    def test_it_never_grows_beyond_its_capacity(self, subscription):
        for _ in range(1000):
            subscription.put(events.Disconnected())
            subscription.put(events.Connected("me"))
        assert len(waiting(subscription)) == 4
