"""Files that crash, exhaust or hang a decoder: a process with limited memory and time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import psutil
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from PIL import Image

from files import backend, decoding, storing, thumbnails
from files.models import File
from script.harness.waiting import wait_for
from tests.factories import Api, assert_error, make_user, mistakes
from tests.files.pngs import claiming


@pytest.fixture
def picture(tmp_path) -> Path:
    """Not a PNG, whose size needs no decoder."""
    path = tmp_path / "picture.webp"
    Image.new("RGB", (20, 10), "red").save(path)
    return path


@pytest.fixture
def decoders(settings, monkeypatch):
    """A pool of its own, to be killed or starved; afterwards what was started is ended."""
    pool = decoding._Pool(1)
    monkeypatch.setattr(decoding, "_measuring", pool)
    monkeypatch.setattr(decoding, "_decoding", pool)
    yield pool
    process = pool._free.get(timeout=60)
    if process is not None:
        process.end()


def children() -> set[int]:
    return {
        child.pid
        for child in psutil.Process().children()
        if child.is_running() and "files.decoder" in child.cmdline()
    }


def upload(person: Api, picture: Path):
    content = SimpleUploadedFile(picture.name, picture.read_bytes())
    return person.post("/files/upload", data={"file": content})


def claims(width: int, height: int) -> bytes:
    """A PNG of black pixels of that size: some kilobytes."""
    pack = zlib.compressobj(9)
    line = bytes(1 + width * 3)
    rows = b"".join(pack.compress(line) for _ in range(height)) + pack.flush()
    return claiming(width, height, pixels=rows)


def test_a_decoder_is_used_again(decoders, picture):
    before = children()
    for _ in range(3):
        assert decoding.measure(picture, "image/webp") == decoding.Measures(20, 10, None)
    assert len(children() - before) == 1


def test_a_decoder_has_none_of_our_secrets(decoders, picture):
    before = children()
    decoding.measure(picture, "image/webp")
    [pid] = children() - before
    assert b"SECRET_KEY" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_a_decoder_that_dies_costs_one_file(decoders, picture, tmp_path):
    before = children()
    decoding.measure(picture, "image/webp")
    [pid] = children() - before
    fifo = tmp_path / "picture"
    os.mkfifo(fifo)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(decoding.measure, fifo, "image/webp")
        with fifo.open("wb"):  # returns when the decoder has opened it, and reads
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(decoding.Undecodable):
                asked.result(60)
    assert decoding.measure(picture, "image/webp") == decoding.Measures(20, 10, None)


def test_a_process_that_takes_too_long_is_killed(decoders, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "CONVERT_SECONDS", 0.05)
    path = tmp_path / "large.png"
    path.write_bytes(claims(7000, 7000))
    with pytest.raises(decoding.Undecodable):
        decoding.as_png(path, tmp_path / "target.png")
    monkeypatch.setattr(decoding, "CONVERT_SECONDS", 60.0)
    assert decoding.as_png(path, tmp_path / "target.png")


def test_a_decoder_that_takes_too_much_memory_fails_alone(decoders, tmp_path, settings, picture):
    settings.DECODER_MEMORY_BYTES = 400 * 1024**2
    path = tmp_path / "large.png"
    path.write_bytes(claims(8000, 7900))  # 190 MB, and once more to turn it
    assert path.stat().st_size < 300_000
    assert decoding.as_png(path, tmp_path / "target.png") is False
    assert decoding.measure(picture, "image/webp") == decoding.Measures(20, 10, None)


def test_the_decoder_ends_when_its_parent_has_died(picture, tmp_path):
    script = (
        "import django, os; django.setup(); from pathlib import Path; from files import decoding;"
        f"decoding.measure(Path({str(picture)!r}), 'image/webp');"
        "import psutil; print(psutil.Process().children()[0].pid, flush=True); os._exit(9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"}, timeout=90,
    )  # fmt: skip
    assert done.returncode == 9, done.stderr
    wait_for(lambda: not psutil.pid_exists(int(done.stdout)), seconds=60, what="the end of the decoder")


@pytest.mark.django_db
class TestUploads:
    @pytest.fixture
    def person(self) -> Api:
        return Api.of(make_user("carol"))

    @pytest.fixture
    def deadly(self, monkeypatch):
        """Whatever is measured kills its decoder, as a bug in a codec would."""
        monkeypatch.setattr(decoding, "MEASURE_SECONDS", 1e-6)

    def test_a_file_that_kills_its_decoder_is_refused(self, decoders, deadly, person, picture):
        body = assert_error(upload(person, picture), 400, "validation_error")
        assert mistakes(body) == {"file": "UNDECODABLE"}
        assert not File.objects.exists()

    def test_an_output_that_kills_its_decoder_is_stored(self, decoders, deadly, picture):
        file = storing.store(
            user_id=make_user("bob").pk, kind="output", filename="x.webp", chunks=[picture.read_bytes()]
        )
        assert (file.width, file.size) == (None, picture.stat().st_size)
        assert backend.size_of(file.key) == file.size

    def test_an_output_that_claims_more_pixels_than_a_picture_has_is_stored(self):
        user = make_user("bob")
        for width, height in ((2**31, 1), (1, 2**32 - 1)):
            content = claiming(width, height)
            file = storing.store(user_id=user.pk, kind="output", filename="x.png", chunks=[content])
            storing.keep([file])
            assert (file.width, file.height, file.size) == (None, None, len(content))

    def test_a_picture_whose_thumbnail_kills_the_decoder_has_none(
        self, decoders, person, picture, monkeypatch
    ):
        file_id = upload(person, picture).json()["file_id"]
        monkeypatch.setattr(decoding, "DECODE_SECONDS", 1e-6)
        assert thumbnails.key_of(File.objects.get(id=file_id)) is None


def test_a_preview_is_no_icon():
    from workflows.worker import previews

    icon = BytesIO()
    Image.new("RGB", (32, 32)).save(icon, "ICO")
    assert previews._small(icon.getvalue()) is None
