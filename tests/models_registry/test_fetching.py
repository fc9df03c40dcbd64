"""One download by the worker, from a real HTTP server that behaves badly."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import resource
import threading
import time

import pytest

from comfyserve.outbound import client
from models_registry import fetching, verifying
from models_registry.models import Download
from models_registry.part_file import Part
from tests.models_registry.sources import Source, serving

NAME = "sdxl/new.safetensors"


def sound(size: int = 2_000_000) -> bytes:
    header = json.dumps({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(i % 251 for i in range(1000)) * (size // 1000)


@pytest.fixture(autouse=True)
def quick(settings, monkeypatch):
    settings.OUTBOUND_ALLOW = ["127.0.0.1"]
    settings.MODEL_DISK_RESERVE_BYTES = 0
    monkeypatch.setattr(fetching, "FIRST_DELAY", 0.01)


@pytest.fixture
def source():
    with serving(Source(sound())) as source:
        yield source


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


class Told:
    """What was told of the progress; cancelled after `until` bytes."""

    def __init__(self, until: float = float("inf")) -> None:
        self.seen: list[tuple[int, int | None]] = []
        self._until = until

    def __call__(self, done: int, total: int | None) -> bool:
        self.seen.append((done, total))
        return done < self._until


@pytest.fixture
def fetch(source, folder):
    def run(name=NAME, *, sha256="", told=None, stop=None, with_tokens=False):
        return fetching.fetch(
            Download(url=source.url, sha256=sha256),
            name=name,
            folder="checkpoints",
            places=[str(folder)],
            report=told or Told(),
            stop=stop or threading.Event(),
            with_tokens=with_tokens,
        )

    return run


def left_in(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_the_file_is_put_in_its_place(fetch, source, folder):
    told = Told()
    fetched = fetch(told=told)
    assert fetched.path == folder / NAME
    assert fetched.path.read_bytes() == source.content
    assert fetched.sha256 == hashlib.sha256(source.content).hexdigest()
    assert left_in(folder) == ["sdxl", NAME]
    assert told.seen[-1] == (len(source.content), len(source.content))


def test_a_download_interrupted_three_times_is_resumed(fetch, source, folder):
    source.cuts = 3
    assert fetch().path.read_bytes() == source.content
    assert len(source.asked) == 4
    assert source.sent == len(source.content)  # no byte came twice
    assert [asked.get("Range") is not None for asked in source.asked] == [False, True, True, True]


def test_a_source_without_range_support_restarts(fetch, source):
    source.cuts, source.ranges = 1, False
    assert fetch().path.read_bytes() == source.content


def test_a_file_that_changed_during_its_download_is_restarted(fetch, source, folder):
    part = folder / "sdxl" / ".new.safetensors.part"
    part.parent.mkdir()
    part.write_bytes(b"of an older file")
    part.with_name(f"{part.name}.json").write_text(json.dumps({"url": source.url, "validator": '"v0"'}))
    assert fetch().path.read_bytes() == source.content


def test_a_stopped_worker_leaves_what_it_has_for_the_next(fetch, source, folder):
    source.paused, stop = threading.Event(), threading.Event()

    def tell(done, total):
        stop.set()
        source.paused.set()
        return True

    with pytest.raises(verifying.Stopped):
        fetch(told=tell, stop=stop)
    assert (folder / "sdxl" / ".new.safetensors.part").stat().st_size > 0
    assert fetch().path.read_bytes() == source.content
    assert "Range" in source.asked[1]


def test_a_cancelled_download_leaves_nothing(fetch, folder):
    with pytest.raises(fetching.Cancelled):
        fetch(told=Told(until=1))
    assert left_in(folder) == []


def test_a_stalled_download_is_cancelled_at_once(fetch, source, folder):
    source.paused = threading.Event()  # and for two minutes nothing comes
    began = time.monotonic()
    with pytest.raises(fetching.Cancelled):
        fetch(told=Told(until=1))
    assert time.monotonic() - began < 20
    assert left_in(folder) == []


def test_a_worker_that_stops_does_not_wait_for_a_stalled_source(fetch, source, folder):
    source.paused, stop = threading.Event(), threading.Event()
    began = time.monotonic()

    def stop_halfway() -> None:
        if source.half_sent.wait(10):
            stop.set()

    threading.Thread(target=stop_halfway).start()
    with pytest.raises(verifying.Stopped):
        fetch(stop=stop)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("how", ["linked", "digest"])
@pytest.mark.parametrize("right", [True, False])
def test_a_checksum_from_the_source_is_verified(fetch, source, folder, how, right):
    """As Hugging Face does it: beside a redirect to another place. And as RFC 9530 has it."""
    digest = hashlib.sha256(source.content if right else b"another").digest()
    if how == "linked":
        told = {"Location": source.url, "X-Linked-ETag": f'"{digest.hex()}"'}
        source.answers = [(302, told, b"")]
    else:
        told = {"Repr-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:"}
        source.answers = [(200, told, source.content)]
    if right:
        assert fetch().sha256 == digest.hex()
    else:
        with pytest.raises(fetching.Failed, match="SHA-256"):
            fetch()
        assert left_in(folder) == []


def test_an_etag_that_is_not_a_checksum_is_ignored(fetch, source):
    source.answers = [(302, {"Location": source.url, "X-Linked-ETag": '"0123abc"'}, b"")]
    assert fetch().path.read_bytes() == source.content


def test_a_disk_that_fills_up_during_a_download_is_reported_and_leaves_no_files(fetch, source, folder):
    """The kernel refuses to write more: as with a full disk, but for the number of the error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(source.content) // 2, hard))
    try:
        with pytest.raises(fetching.Failed, match="could not be written: File too large"):
            fetch()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left_in(folder) == []


def test_a_full_disk_during_a_download_is_reported(fetch, folder, monkeypatch):
    def full(part, chunk):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Part, "append", full)
    with pytest.raises(fetching.Failed, match="The disk is full"):
        fetch()
    assert left_in(folder) == []


def test_the_right_sum_is_accepted(fetch, source):
    assert fetch(sha256=hashlib.sha256(source.content).hexdigest())


def test_a_wrong_sum_is_refused(fetch, folder):
    with pytest.raises(fetching.Failed, match="SHA-256"):
        fetch(sha256="0" * 64)
    assert left_in(folder) == []


@pytest.mark.parametrize(
    ("status", "said"), [(401, "token"), (403, "token"), (404, "no such file"), (418, "418")]
)
def test_a_refusal_is_reported_immediately(fetch, source, folder, status, said):
    source.answers = [(status, {}, b"")]
    with pytest.raises(fetching.Failed, match=said):
        fetch()
    assert len(source.asked) == 1
    assert left_in(folder) == []


@pytest.mark.parametrize("total", ["9" * 5000, "\u00b2", "x"])
def test_a_range_that_is_no_number_is_one_of_trouble(fetch, source, folder, total):
    """Such a source is asked again, and at last said to be at fault; it is no error of ours."""
    source.answers = [(206, {"Content-Range": f"bytes {total}-9/{total}"}, b"x")] * 20
    with pytest.raises(fetching.Failed, match="another offset"):
        fetch()
    assert left_in(folder) == []


def test_a_failing_source_is_retried(fetch, source):
    source.answers = [(503, {}, b""), (429, {}, b"")]
    assert fetch().path.read_bytes() == source.content


def test_a_source_that_keeps_failing_is_abandoned(fetch, source, folder):
    source.answers = [(503, {}, b"")] * 20
    with pytest.raises(fetching.Failed, match="503"):
        fetch()
    assert len(source.asked) == fetching.TRIES
    assert left_in(folder) == []


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_in_place_of_a_model_is_named(fetch, source, folder, kind):
    source.answers = [(200, {"Content-Type": kind}, b"<!DOCTYPE html><title>Log in</title>")]
    with pytest.raises(fetching.Failed, match="web page"):
        fetch()
    assert left_in(folder) == []


def test_a_truncated_file_is_refused(fetch, source, folder):
    source.content = source.content[:-1000]
    with pytest.raises(fetching.Failed, match="cut short"):
        fetch()
    assert left_in(folder) == []


def test_a_stalled_source_is_abandoned(fetch, source, folder, settings, monkeypatch):
    settings.MODEL_STALL_SECONDS = 0.2
    monkeypatch.setattr(fetching, "TRIES", 1)
    source.paused = threading.Event()
    source.etag = None  # begun anew each time, so it never gains on what it had
    with pytest.raises(fetching.Failed, match="stopped answering"):
        fetch()
    assert left_in(folder) == []


def test_a_full_disk_is_reported_before_the_first_byte(fetch, source, folder, settings):
    settings.MODEL_DISK_RESERVE_BYTES = 2**60
    with pytest.raises(fetching.Failed, match="not enough room"):
        fetch()
    assert left_in(folder) == []


def test_a_file_larger_than_allowed_is_refused(fetch, folder, settings):
    settings.MODEL_DOWNLOAD_MAX_BYTES = 1000
    with pytest.raises(fetching.Failed, match="1000"):
        fetch()
    assert left_in(folder) == []


def test_a_redirect_to_a_private_address_is_refused(fetch, source, folder):
    source.answers = [(302, {"Location": "http://10.0.0.1/model"}, b"")]
    with pytest.raises(fetching.Failed, match="public"):
        fetch()
    assert left_in(folder) == []


def test_a_missing_folder_is_reported(source):
    with pytest.raises(fetching.Failed, match="folder"):
        fetching.fetch(
            Download(url=source.url), name=NAME, folder="checkpoints", places=["/not/here"], report=Told(),
            stop=threading.Event(), with_tokens=False,
        )  # fmt: skip


def test_two_at_once_fetch_the_file_once(fetch, source, folder):
    source.paused = threading.Event()
    found: list[fetching.Fetched] = []
    threads = [threading.Thread(target=lambda: found.append(fetch())) for _ in range(2)]
    threads[0].start()
    assert source.half_sent.wait(10)
    threads[1].start()
    source.paused.set()
    for thread in threads:
        thread.join(20)
    assert len(found) == 2
    assert len(source.asked) == 1


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://huggingface.co/a/b", "Bearer hf"),
        ("https://cdn.huggingface.co/a/b", "Bearer hf"),
        ("https://civitai.com/api/download/1", "Bearer cv"),
        ("http://huggingface.co/a/b", None),
        ("https://huggingface.co.example.com/a", None),
        ("https://evilhuggingface.co/a", None),
    ],
)
def test_tokens_go_to_their_own_hosts_only(fetch, source, settings, monkeypatch, url, sent):
    settings.HUGGINGFACE_TOKEN, settings.CIVITAI_TOKEN = "hf", "cv"
    seen = []

    def door(url, *, headers, **_):
        seen.append(headers.get("Authorization"))
        raise client.Refused("far enough")

    monkeypatch.setattr(client, "get", door)
    source.url = url
    with pytest.raises(fetching.Failed, match="far enough"):
        fetch(with_tokens=True)
    with pytest.raises(fetching.Failed, match="far enough"):
        fetch(with_tokens=False)
    assert seen == [sent, None]
