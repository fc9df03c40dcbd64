from __future__ import annotations

import uuid

import pytest

from comfyui import Unreachable, events
from tests.comfyui.conftest import until
from tests.comfyui.targets import picture


@pytest.fixture
def queue_up(client, session):
    """Puts a graph behind what runs; at the end of the test it is taken out."""
    queued = []

    def submit(*, front: bool = False) -> str:
        prompt_id = str(uuid.uuid4())
        client.submit(prompt=picture(), prompt_id=prompt_id, client_id=session.client_id, front=front)
        queued.append(prompt_id)
        return prompt_id

    yield submit
    for each in queued:
        client.delete_queued(each)


class TestQueue:
    def test_it_lists_what_runs_and_what_waits_in_order(self, target, client, session, begin, queue_up):
        running = begin(target.long())
        first, second = queue_up(), queue_up()
        ahead = queue_up(front=True)
        state = client.queue()
        assert [item.prompt_id for item in state.running] == [running]
        assert [item.prompt_id for item in state.pending] == [ahead, first, second]

    def test_an_item_says_whose_and_what_it_is(self, target, client, session, begin, queue_up):
        begin(target.long())
        queue_up()
        [item] = client.queue().pending
        assert (item.client_id, item.output_nodes) == (session.client_id, ["2"])
        assert item.prompt["2"]["class_type"] == "SaveImage"
        assert item.created_ms

    def test_remaining_counts_running_and_waiting(self, target, client, begin, queue_up):
        begin(target.long())
        queue_up()
        assert client.queue_remaining() == 2

    def test_an_empty_queue(self, scripted_client):
        state = scripted_client.queue()
        assert (state.running, state.pending) == ([], [])

    @pytest.mark.parametrize("body", [b"{}", b'{"queue_running": [[1]], "queue_pending": []}', b"[]"])
    def test_nonsense_is_unreachable(self, scripted, scripted_client, body):
        scripted.faults.body["/queue"] = body
        with pytest.raises(Unreachable):
            scripted_client.queue()


class TestDeleteQueued:
    def test_a_waiting_prompt_is_removed_without_a_trace(self, target, client, begin, queue_up):
        begin(target.long())
        waiting = queue_up()
        client.delete_queued(waiting)
        assert client.whereabouts(waiting) == "unknown"

    def test_a_running_execution_continues(self, target, client, begin):
        running = begin(target.long())
        client.delete_queued(running)
        assert client.whereabouts(running) == "running"

    def test_an_unknown_one_is_no_error(self, client, prompt_id):
        client.delete_queued(prompt_id)


class TestInterrupt:
    def test_the_running_one_ends(self, target, client, session, begin):
        running = begin(target.long())
        with session.subscribe(running) as subscription:
            client.interrupt(running)
            seen = until(subscription, events.Ended)
        assert any(isinstance(event, events.Interrupted) for event in seen)
        assert client.whereabouts(running) == "ended"

    def test_another_id_leaves_it_running(self, target, client, begin, prompt_id):
        running = begin(target.long())
        client.interrupt(prompt_id)
        assert client.whereabouts(running) == "running"

    def test_a_waiting_execution_keeps_waiting(self, target, client, begin, queue_up):
        begin(target.long())
        waiting = queue_up()
        client.interrupt(waiting)
        assert client.whereabouts(waiting) == "queued"


@pytest.mark.parametrize("method", ["interrupt", "delete_queued", "delete_history", "history"])
def test_an_empty_id_never_leaves_the_client(scripted, scripted_client, method):
    with pytest.raises(ValueError, match="an id is needed"):
        getattr(scripted_client, method)("")
    assert scripted.requests == []
