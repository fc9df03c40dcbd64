from __future__ import annotations

import io
import os
import uuid

import pytest

from comfyui import Client, OutputFile, Refused, Unreachable
from tests.scripted_comfyui import PNG

MEBIBYTE = 1024 * 1024


def seen(client: Client, *, filename: str, subfolder: str) -> bytes:
    with client.view(OutputFile(filename=filename, subfolder=subfolder, type="input")) as stream:
        return b"".join(stream)


@pytest.fixture
def subfolder() -> str:
    return uuid.uuid4().hex


class Pipe(io.RawIOBase):
    """Can be read once, and does not know its length."""

    def __init__(self, content: bytes) -> None:
        self._stream = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def seek(self, *_args):
        raise io.UnsupportedOperation("seek")

    def tell(self):
        raise io.UnsupportedOperation("tell")

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)


class Watched(io.BytesIO):
    largest_read = 0

    def read(self, size: int | None = -1) -> bytes:
        chunk = super().read(size)
        self.largest_read = max(self.largest_read, len(chunk))
        return chunk


class TestUpload:
    @pytest.mark.parametrize(
        "name",
        ["plain.png", "with space.png", "ünï 图片 🙂.png", 'quo"te.png', "per%20cent.png", "semi;colon=.png"],
    )
    def test_the_reference_names_the_uploaded_file(self, client, subfolder, name):
        reference = client.upload(name, io.BytesIO(PNG), subfolder=subfolder)
        assert reference == f"{subfolder}/{name}"
        assert seen(client, filename=name, subfolder=subfolder) == PNG

    def test_without_a_subfolder_the_reference_is_the_name(self, client):
        name = f"{uuid.uuid4().hex}.png"
        assert client.upload(name, io.BytesIO(PNG)) == name

    def test_another_folder_appears_in_the_reference(self, client, subfolder):
        reference = client.upload("a.png", io.BytesIO(PNG), subfolder=subfolder, type="temp")
        assert reference == f"{subfolder}/a.png [temp]"

    def test_a_stream_that_cannot_seek(self, client, subfolder):
        content = os.urandom(3 * MEBIBYTE)
        client.upload("pipe.bin", Pipe(content), subfolder=subfolder)
        assert seen(client, filename="pipe.bin", subfolder=subfolder) == content

    def test_a_file_is_read_from_its_current_position(self, client, subfolder):
        stream = io.BytesIO(b"before" + PNG)
        stream.seek(6)
        client.upload("a.png", stream, subfolder=subfolder)
        assert seen(client, filename="a.png", subfolder=subfolder) == PNG

    def test_an_empty_file(self, client, subfolder):
        client.upload("empty.bin", io.BytesIO(b""), subfolder=subfolder)
        assert seen(client, filename="empty.bin", subfolder=subfolder) == b""

    def test_it_is_never_whole_in_memory(self, client, subfolder):
        stream = Watched(os.urandom(16 * MEBIBYTE))
        client.upload("large.bin", stream, subfolder=subfolder)
        assert stream.largest_read <= MEBIBYTE
        assert seen(client, filename="large.bin", subfolder=subfolder) == stream.getvalue()

    def test_a_taken_name_is_written_over(self, client, subfolder):
        for content in (b"old", b"new"):
            client.upload("a.bin", io.BytesIO(content), subfolder=subfolder)
        assert seen(client, filename="a.bin", subfolder=subfolder) == b"new"

    @pytest.mark.parametrize("name", ["", "a/b.png", "a\\b.png", "a\nb.png", "a\0.png"])
    def test_a_filename_with_a_path_is_not_sent(self, scripted, scripted_client, name):
        with pytest.raises(ValueError, match="plain file name"):
            scripted_client.upload(name, io.BytesIO(PNG))
        assert scripted.requests == []

    def test_too_large_is_refused(self, scripted, scripted_client):
        scripted.faults.status["/upload/image"] = 413
        with pytest.raises(Refused) as refused:
            scripted_client.upload("a.png", io.BytesIO(PNG))
        assert refused.value.type == "too_large"

    def test_one_that_is_down(self, scripted, scripted_client):
        scripted.stop()
        with pytest.raises(Unreachable) as failure:
            scripted_client.upload("a.png", io.BytesIO(PNG))
        assert failure.value.sent is False


class TestUploadToARealOne:
    """What only a real one does with the files."""

    def test_it_takes_more_than_comfyuis_usual_limit(self, client, subfolder):
        size = 105 * MEBIBYTE
        client.upload("large.bin", io.BytesIO(bytes(size)), subfolder=subfolder)
        with client.view(OutputFile(filename="large.bin", subfolder=subfolder, type="input")) as there:
            assert there.length == size

    @pytest.fixture
    def client(self, comfyui_url):
        with Client(comfyui_url) as client:
            yield client

    def test_without_overwrite_another_name_is_found(self, client, subfolder):
        client.upload("a.bin", io.BytesIO(b"old"), subfolder=subfolder)
        reference = client.upload("a.bin", io.BytesIO(b"new"), subfolder=subfolder, overwrite=False)
        assert reference == f"{subfolder}/a (1).bin"

    def test_a_node_takes_the_reference(self, client, subfolder, prompt_id):
        reference = client.upload("ünï 图.png", io.BytesIO(PNG), subfolder=subfolder)
        graph = {
            "1": {"class_type": "LoadImage", "inputs": {"image": reference}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        }
        assert client.submit(prompt=graph, prompt_id=prompt_id, client_id="x").node_errors == {}

    def test_a_folder_outside_is_refused(self, client):
        with pytest.raises(Refused):
            client.upload("a.png", io.BytesIO(PNG), subfolder="../..")

    def test_a_mask_is_laid_over_its_original(self, client, subfolder):
        client.upload("a.png", io.BytesIO(PNG), subfolder=subfolder)
        original = OutputFile(filename="a.png", subfolder=subfolder, type="input")
        reference = client.upload(
            "mask.png", io.BytesIO(PNG), subfolder=subfolder, kind="mask", original=original
        )
        assert reference == f"{subfolder}/mask.png"
        assert seen(client, filename="mask.png", subfolder=subfolder).startswith(b"\x89PNG")
