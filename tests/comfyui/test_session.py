from __future__ import annotations

import json
import threading
import time
import uuid
from typing import Any

import pytest

from comfyui import Client, Session, Subscription, events, session
from script.harness.relay import Proxy
from script.harness.waiting import wait_for
from tests.comfyui.conftest import PATIENCE, until
from tests.comfyui.targets import Target, failing, picture


@pytest.fixture
def follow(client, session, prompt_id):
    """Submit a graph and return all its events."""

    def submit_and_follow(graph):
        with session.subscribe(prompt_id) as subscription:
            client.submit(prompt=graph, prompt_id=prompt_id, client_id=session.client_id)
            return until(subscription, events.Ended)

    return submit_and_follow


def test_it_ignores_the_proxy_of_the_environment(target, monkeypatch):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
    with Session(str(uuid.uuid4()), target.url) as session:
        assert session.wait_connected(PATIENCE)


def of(kind: type[events.Event], seen: list[Any]) -> list[Any]:
    return [event for event in seen if isinstance(event, kind)]


class TestFollowing:
    def test_a_success_in_its_order(self, follow, prompt_id):
        seen = follow(picture())
        started, succeeded, ended = seen[0], seen[-2], seen[-1]
        assert isinstance(started, events.Started)
        assert isinstance(seen[1], events.Cached)
        assert isinstance(succeeded, events.Succeeded)
        assert ended == events.Ended(prompt_id)
        assert {started.prompt_id, succeeded.prompt_id} == {prompt_id}
        assert succeeded.timestamp_ms
        assert started.timestamp_ms
        assert 0 <= succeeded.timestamp_ms - started.timestamp_ms < 60_000
        [executed] = of(events.Executed, seen)
        assert (executed.node_id, list(executed.output)) == ("2", ["images"])

    def test_history_is_there_at_the_end(self, follow, client, prompt_id):
        follow(picture())
        assert client.history(prompt_id) is not None

    def test_steps_and_previews(self, target, follow, prompt_id):
        seen = follow(target.short_steps())
        steps = of(events.Progress, seen)
        assert (steps[-1].value, steps[-1].max) == (4, 4)
        previews = of(events.Preview, seen)
        assert previews
        assert {each.prompt_id for each in previews} == {prompt_id}
        assert previews[0].data.startswith((b"\xff\xd8\xff", b"\x89PNG"))

    def test_every_node_is_finished_in_the_last_state(self, target, follow):
        graph = target.short_steps()
        seen = follow(graph)
        cached = set(of(events.Cached, seen)[0].nodes)
        last = of(events.ProgressState, seen)[-1]
        assert {node_id for node_id, node in last.nodes.items() if node.state == "finished"} == (
            set(graph) - cached
        )

    def test_a_failure(self, follow):
        [failed] = of(events.Failed, follow(failing()))
        assert (failed.error.node_id, failed.error.exception_type) == ("4", "Exception")

    def test_a_repeated_graph_is_cached(self, follow, run):
        graph = picture()
        run(graph)
        seen = follow(graph)
        assert set(of(events.Cached, seen)[0].nodes) == {"1", "2"}
        assert len(of(events.Executed, seen)) == 1

    def test_a_subscriber_receives_only_its_prompts_events(self, client, session):
        one, other = str(uuid.uuid4()), str(uuid.uuid4())
        with session.subscribe(one) as first, session.subscribe(other) as second:
            for each in (one, other):
                client.submit(prompt=picture(), prompt_id=each, client_id=session.client_id)
            seen = until(second, events.Ended)
            assert {event.prompt_id for event in seen} == {other}
            assert {event.prompt_id for event in until(first, events.Ended)} == {one}

    def test_no_event_arrives_after_unsubscribing(self, client, session, prompt_id):
        with session.subscribe(prompt_id) as gone, session.subscribe(prompt_id) as stays:
            gone.close()
            client.submit(prompt=picture(), prompt_id=prompt_id, client_id=session.client_id)
            until(stays, events.Ended)
            assert gone.get(0) is None


@pytest.fixture
def proxy(target: Target):
    with Proxy(target.url) as proxy:
        yield proxy


@pytest.fixture
def cut_session(proxy):
    with Session(str(uuid.uuid4()), proxy.url) as session:
        assert session.wait_connected(PATIENCE)
        yield session


class TestACutConnection:
    def test_a_run_that_continues_is_followed_again(self, target, client, proxy, cut_session, prompt_id):
        with cut_session.subscribe(prompt_id) as subscription:
            client.submit(prompt=target.long(), prompt_id=prompt_id, client_id=cut_session.client_id)
            until(subscription, events.Progress)
            proxy.cut()
            until(subscription, events.Disconnected)
            proxy.mend()
            until(subscription, events.Connected)
            until(subscription, events.Progress)
            client.interrupt(prompt_id)
            until(subscription, events.Ended)
        assert client.history(prompt_id).outcome == "interrupted"

    def test_an_end_that_was_missed_is_in_history(self, target, client, proxy, cut_session, prompt_id):
        with cut_session.subscribe(prompt_id) as subscription:
            client.submit(prompt=target.long(), prompt_id=prompt_id, client_id=cut_session.client_id)
            until(subscription, events.Progress)
            proxy.cut()
            until(subscription, events.Disconnected)
            self.end(client, target, prompt_id)
            proxy.mend()
            seen = until(subscription, events.Connected)
            assert not of(events.Ended, seen)
        assert client.whereabouts(prompt_id) == "ended"
        assert client.history(prompt_id).outcome == "interrupted"

    def test_generation_counts_the_connections(self, proxy, cut_session, prompt_id):
        assert (cut_session.connected, cut_session.generation) == (True, 1)
        with cut_session.subscribe(prompt_id) as subscription:
            proxy.cut()
            until(subscription, events.Disconnected)
            assert cut_session.connected is False
            proxy.mend()
            until(subscription, events.Connected)
        assert (cut_session.connected, cut_session.generation) == (True, 2)

    @staticmethod
    def end(client: Client, target: Target, prompt_id: str) -> None:
        """Stop it, and wait for it through another session."""
        with Session(str(uuid.uuid4()), target.url) as other, other.subscribe(prompt_id):
            assert other.wait_connected(PATIENCE)
            client.interrupt(prompt_id)
            while client.history(prompt_id) is None:
                threading.Event().wait(0.01)


class TestOneInTrouble:
    def test_it_works_again_after_a_restart(self, scripted, scripted_session, prompt_id):
        with scripted_session.subscribe(prompt_id) as subscription:
            scripted.restart()
            until(subscription, events.Disconnected)
            until(subscription, events.Connected)
        assert scripted_session.connected

    def test_it_waits_for_one_that_is_not_there_yet(self, scripted):
        scripted.stop()
        with Session("me", scripted.url) as session:
            assert not session.wait_connected(0.2)
            scripted.start()
            assert session.wait_connected(PATIENCE)

    def test_whoever_waited_for_the_connection_gets_no_event_about_it(self, scripted, prompt_id):
        ours = Session("me", scripted.url, connect=False)
        subscribed: list[Subscription] = []

        class Connected(threading.Event):
            """A subscriber is quicker than the session's thread."""

            def set(self) -> None:
                super().set()
                other = threading.Thread(target=lambda: subscribed.append(ours.subscribe(prompt_id)))
                other.start()
                other.join(0.2)

        ours._connected = Connected()
        with ours:
            ours.start()
            wait_for(lambda: subscribed, what="the subscription")
            scripted.send(json.dumps({"type": "execution_start", "data": {"prompt_id": prompt_id}}))
            assert subscribed[0].get(PATIENCE) == events.Started(prompt_id)

    @pytest.mark.parametrize("frame", ["nonsense", "[]", '{"type": 5}', b"", b"\0\0\0\4\xff", b"\0" * 70_000])
    def test_nonsense_disturbs_nothing(self, scripted, scripted_client, scripted_session, prompt_id, frame):
        with scripted_session.subscribe(prompt_id) as subscription:
            scripted.send(frame)
            scripted_client.submit(
                prompt=picture(), prompt_id=prompt_id, client_id=scripted_session.client_id
            )
            until(subscription, events.Ended)
        assert scripted_session.generation == 1

    def test_messages_that_arrive_together_are_read_one_by_one(self, scripted, scripted_session, prompt_id):
        nodes = ["x" * length for length in (1, 100, 20_000, 1, 70_000, 2) for _ in range(5)]
        with scripted_session.subscribe(prompt_id) as subscription:
            for node in nodes:
                data = {"prompt_id": prompt_id, "node": node, "display_node": node}
                scripted.send(json.dumps({"type": "executing", "data": data}))
            seen = [subscription.get(PATIENCE) for _ in nodes]
        assert [event.node_id for event in of(events.Executing, seen)] == nodes

    def test_a_silent_comfyui_is_checked_through_its_history(
        self, scripted, scripted_client, scripted_session, prompt_id
    ):
        scripted.faults.silent = True
        with scripted_session.subscribe(prompt_id) as subscription:
            scripted_client.submit(
                prompt=picture(), prompt_id=prompt_id, client_id=scripted_session.client_id
            )
            scripted.wait_for(lambda: prompt_id in scripted.history)
            assert subscription.get(0.05) is None
        assert scripted_client.history(prompt_id).outcome == "success"

    def test_a_silently_vanished_peer_is_detected(self, scripted, monkeypatch, prompt_id):
        monkeypatch.setattr(session, "SILENCE", 0.1)
        monkeypatch.setattr(session, "DEAD", 0.3)
        scripted.faults.deaf = True
        with Session("me", scripted.url) as ours, ours.subscribe(prompt_id) as subscription:
            until(subscription, events.Disconnected)

    def test_a_quiet_peer_that_answers_pings_is_kept(self, scripted, monkeypatch, prompt_id):
        monkeypatch.setattr(session, "SILENCE", 0.05)
        monkeypatch.setattr(session, "DEAD", 3.0)
        with Session("me", scripted.url) as ours:
            assert ours.wait_connected(PATIENCE)
            with ours.subscribe(prompt_id) as subscription:
                assert subscription.get(4.0) is None

    def test_the_length_of_the_queue_is_known(self, scripted, scripted_client, scripted_session):
        scripted.hold()
        for number in range(2):
            scripted_client.submit(prompt=picture(), prompt_id=str(number), client_id="x")
        scripted.release()
        with scripted_session.subscribe("last") as subscription:
            scripted_client.submit(prompt=picture(), prompt_id="last", client_id=scripted_session.client_id)
            until(subscription, events.Ended)
        assert scripted_session.queue_remaining == 0

    def test_a_restarted_comfyui_reports_its_queue_again(self, scripted, scripted_client, scripted_session):
        scripted.hold()
        for number in range(2):
            scripted_client.submit(prompt=picture(), prompt_id=str(number), client_id="x")
        wait_for(lambda: scripted_session.queue_remaining == 2, what="the queue to be reported")
        with scripted_session.subscribe("any") as subscription:
            scripted.restart()
            until(subscription, events.Connected)
        assert scripted_session.queue_remaining == 0


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


class TestClose:
    def test_it_ends_its_thread(self, scripted):
        ours = Session("to-be-closed", scripted.url)
        assert ours.wait_connected(PATIENCE)
        ours.close()
        wait_for(lambda: "comfyui-session-to-be-closed" not in names_of_threads(), what="the thread to end")

    def test_it_does_not_wait_for_one_that_never_answers(self, scripted):
        scripted.faults.hang.add("/ws")
        ours = Session("me", scripted.url)
        scripted.wait_for(lambda: scripted.asked("GET", "/ws"))
        begun = time.monotonic()
        ours.close()
        assert time.monotonic() - begun < 4  # to connect takes 5 s

    def test_subscribers_are_notified(self, scripted, prompt_id):
        ours = Session("me", scripted.url)
        assert ours.wait_connected(PATIENCE)
        with ours.subscribe(prompt_id) as subscription:
            ours.close()
            assert subscription.get(PATIENCE) == events.Disconnected()

    def test_headers_go_with_the_connection(self, scripted):
        with Session("me", scripted.url, headers={"Authorization": "Bearer x"}) as ours:
            assert ours.wait_connected(PATIENCE)
        [request] = scripted.asked("GET", "/ws")
        assert request.headers["Authorization"] == "Bearer x"
