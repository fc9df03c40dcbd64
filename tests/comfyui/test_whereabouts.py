from __future__ import annotations

import pytest

from comfyui import Unreachable
from tests.comfyui.targets import picture


class TestWhereabouts:
    def test_running(self, target, client, begin):
        assert client.whereabouts(begin(target.long())) == "running"

    def test_ended(self, client, run):
        assert client.whereabouts(run(picture()).prompt_id) == "ended"

    def test_unknown(self, client, prompt_id):
        assert client.whereabouts(prompt_id) == "unknown"

    def test_queued(self, scripted, scripted_client, prompt_id):
        scripted.hold()
        scripted_client.submit(prompt=picture(), prompt_id=prompt_id, client_id="x")
        assert scripted_client.whereabouts(prompt_id) == "queued"

    def test_a_repeated_prompt_is_running_although_the_history_has_it(
        self, scripted, scripted_client, prompt_id
    ):
        scripted_client.submit(prompt=picture(), prompt_id=prompt_id, client_id="x")
        scripted.wait_for(lambda: prompt_id in scripted.history)
        stalled = {"1": {"class_type": "Stall", "inputs": {}}, "2": picture()["2"]}
        scripted_client.submit(prompt=stalled, prompt_id=prompt_id, client_id="x")
        scripted.wait_for(lambda: scripted.running == prompt_id)
        assert scripted_client.whereabouts(prompt_id) == "running"

    def test_unknown_is_returned_after_checking_queue_and_history_twice(
        self, scripted, scripted_client, prompt_id
    ):
        scripted_client.whereabouts(prompt_id)
        history = f"/history/{prompt_id}"
        assert [request.path for request in scripted.requests] == ["/queue", history, "/queue", history]

    def test_a_restarted_comfyui_has_lost_it(self, scripted, scripted_client, prompt_id):
        scripted.hold()
        scripted_client.submit(prompt=picture(), prompt_id=prompt_id, client_id="x")
        scripted.restart()
        assert scripted_client.whereabouts(prompt_id) == "unknown"

    def test_one_that_is_down_is_not_unknown(self, scripted, scripted_client, prompt_id):
        scripted.stop()
        with pytest.raises(Unreachable):
            scripted_client.whereabouts(prompt_id)
