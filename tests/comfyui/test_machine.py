from __future__ import annotations

import pytest

from comfyui import Client, Unreachable


class TestSystemStats:
    def test_it_returns_version_and_devices(self, client):
        stats = client.system_stats()
        assert stats.version.startswith("0.3.")
        assert [(device.type, device.index) for device in stats.devices] == [("cpu", None)]
        assert stats.ram_total > stats.ram_free > 0
        assert "main.py" in stats.argv[0]

    @pytest.mark.parametrize("body", [b"{}", b'{"system": {}, "devices": [{}]}', b"<html>"])
    def test_nonsense_is_unreachable(self, scripted, scripted_client, body):
        scripted.faults.body["/system_stats"] = body
        with pytest.raises(Unreachable):
            scripted_client.system_stats()


class TestObjectInfo:
    def test_one_node(self, client):
        info = client.object_info("SaveImage")
        assert list(info) == ["SaveImage"]
        assert info["SaveImage"]["output_node"] is True
        assert "images" in info["SaveImage"]["input"]["required"]

    def test_all_nodes(self, client):
        assert {"EmptyImage", "SaveImage", "PreviewAny"} <= set(client.object_info())

    @pytest.mark.parametrize("name", ["Nope", "No/pe?"])
    def test_a_node_that_is_not_there(self, client, name):
        assert client.object_info(name) == {}


class TestFeatures:
    def test_it_states_the_largest_upload(self, client):
        """ComfyUI's own is 100 MiB; ours is started with more, so that what we accept fits."""
        assert client.features()["max_upload_size"] >= 100 * 1024 * 1024

    def test_an_old_one_has_none(self, scripted, scripted_client):
        scripted.faults.status["/features"] = 404
        assert scripted_client.features() == {}


class TestPing:
    def test_it_answers(self, client):
        assert client.ping() is True

    def test_it_is_down(self, scripted, scripted_client):
        scripted.stop()
        assert scripted_client.ping() is False

    def test_something_else_answers(self, scripted, scripted_client):
        scripted.faults.body["/prompt"] = b"<html>welcome</html>"
        assert scripted_client.ping() is False


class TestFree:
    def test_it_is_asked_for_memory(self, client):
        client.free(unload_models=True, free_memory=True)

    def test_it_sends_what_was_asked(self, scripted, scripted_client):
        scripted_client.free(unload_models=False, free_memory=True)
        [request] = scripted.asked("POST", "/free")
        assert request.body == {"unload_models": False, "free_memory": True}


class TestConnections:
    def test_they_are_used_again(self, scripted):
        with Client(scripted.url) as client:
            for _ in range(5):
                client.queue()
        assert len({request.peer for request in scripted.requests}) == 1

    def test_a_restart_in_between_is_not_noticed(self, scripted, scripted_client):
        scripted_client.queue()
        scripted.restart()
        assert scripted_client.queue().pending == []
