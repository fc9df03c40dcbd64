from __future__ import annotations

import pytest

from comfyui import NotFound, OutputFile, Unreachable
from tests.comfyui.targets import picture

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class TestView:
    def test_it_streams_the_file(self, client, run):
        [file] = run(picture()).files
        with client.view(file) as stream:
            content = b"".join(stream)
        assert content.startswith(PNG_SIGNATURE)
        assert (stream.content_type, stream.length) == ("image/png", len(content))

    def test_chunks_are_no_larger_than_asked(self, client, run):
        [file] = run(picture()).files
        with client.view(file) as stream:
            sizes = [len(chunk) for chunk in stream.chunks(16)]
        assert sum(sizes) == stream.length
        assert max(sizes) <= 16

    def test_a_file_in_a_folder(self, client, run):
        [file] = run(picture(prefix="some where/ünlike")).files
        with client.view(file) as stream:
            assert b"".join(stream).startswith(PNG_SIGNATURE)

    @pytest.mark.parametrize("name", ["gone.png", "../gone.png"])
    def test_a_missing_file(self, client, name):
        with pytest.raises(NotFound), client.view(OutputFile(filename=name, subfolder="", type="output")):
            pass

    def test_a_folder_outside(self, client):
        file = OutputFile(filename="x.png", subfolder="../..", type="output")
        with pytest.raises(NotFound), client.view(file):
            pass

    def test_leaving_early_leaves_the_client_usable(self, client, run):
        [file] = run(picture()).files
        with client.view(file):
            pass
        assert client.ping()

    def test_a_truncated_file_is_not_accepted_as_complete(self, scripted, scripted_client):
        file = self.written(scripted, scripted_client)
        scripted.faults.cut_files = 10
        with scripted_client.view(file) as stream, pytest.raises(Unreachable):
            list(stream)

    def test_trouble_is_not_a_missing_file(self, scripted, scripted_client):
        file = self.written(scripted, scripted_client)
        scripted.faults.status["/view"] = 500
        with pytest.raises(Unreachable), scripted_client.view(file):
            pass

    @staticmethod
    def written(scripted, client) -> OutputFile:
        client.submit(prompt=picture(), prompt_id="written", client_id="x")
        scripted.wait_for(lambda: "written" in scripted.history)
        file: OutputFile = client.history("written").files[0]
        return file
