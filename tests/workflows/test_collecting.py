"""Collecting outputs into a storage that is slow, unavailable, or rejects one of them."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.storage import default_storage
from django.utils import timezone

from accounts import storage_use
from files import backend
from files.errors import StorageUnavailable
from files.models import File
from files.s3 import Bucket
from script.harness.waiting import wait_for
from tests.factories import assert_error
from tests.scripted_comfyui.nodes import PNG, NodeClass
from tests.workflows.rig import before, sleep
from workflows.models import Execution, FailureCause, Output
from workflows.queue import state_machine
from workflows.worker import finalize, output_collection


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(finalize, "FIRST_DELAY", 0.02)
    monkeypatch.setattr(finalize, "LONGEST_DELAY", 0.05)


class Storage:
    """The real one, with calls counted and made to fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.puts: list[str] = []
        self.deleted: list[str] = []
        self.fails = lambda count: False
        self.error: Exception = StorageUnavailable()
        self._put, self._delete = backend.put, backend.delete
        monkeypatch.setattr(backend, "put", self.put)
        monkeypatch.setattr(backend, "delete", self.delete)

    def put(self, key: str, *args: Any, **given: Any) -> None:
        self.puts.append(key)
        if self.fails(len(self.puts)):
            raise self.error
        self._put(key, *args, **given)

    def delete(self, key: str) -> None:
        self.deleted.append(key)
        self._delete(key)

    @property
    def left(self) -> set[str]:
        """Keys of what is stored now."""
        return {stored.key for stored in backend.walk("outputs/")}


@pytest.fixture
def storage(monkeypatch):
    return Storage(monkeypatch)


def three_pictures() -> dict[str, Any]:
    saves = {
        str(number): {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": f"p{number}"},
        }
        for number in (2, 3, 4)
    }
    return {"1": {"class_type": "Sleep", "inputs": {"seconds": 0.1}}, **saves}


def test_outputs_come_in_the_order_of_node_ids(rig):
    saves = ("save", "10", "9", "4:12", "4:2", "30")
    graph = {"1": {"class_type": "Sleep", "inputs": {"seconds": 0.0}}} | {
        id_: {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "p"}}
        for id_ in saves
    }
    body = rig.ends(rig.run(graph), "completed")
    assert [each["node_id"] for each in body["outputs"]["images"]] == ["4:2", "4:12", "9", "10", "30", "save"]


def test_a_file_that_a_node_names_twice_is_one_output(rig):
    """A node that runs for each element of a list names its file each time, though it overwrites it."""

    async def overwrite(run: Any, _inputs: Any) -> Any:
        return {"images": [run.save(PNG, prefix="p", extension="png")] * 2}

    rig.comfyui.classes["PreviewImage"] = NodeClass(run=overwrite, is_output=True)
    rig.backend.forget_capabilities()
    rig.backend.refresh()
    body = rig.ends(rig.run({"1": {"class_type": "PreviewImage", "inputs": {}}}), "completed")
    assert len(body["outputs"]["images"]) == Output.objects.count() == 1


def test_a_retry_resumes_where_the_first_try_ended(rig, storage):
    storage.fails = lambda count: count == 3
    before = storage.left
    body = rig.ends(rig.run(three_pictures()), "completed")
    assert len(body["outputs"]["images"]) == 3
    stored = [key for key in storage.puts if key.startswith("outputs/")]  # thumbnails come when they come
    assert len(stored) == 4, "only the one that failed is stored again"
    named = set(File.objects.values_list("key", flat=True))
    # Equal pictures are kept once, and the others go after the commit.
    wait_for(lambda: storage.left - before == named, what="what no row names to go")


def test_a_lasting_storage_outage_fails_the_execution_with_an_explanation(rig, storage, monkeypatch):
    monkeypatch.setattr(finalize, "LONGEST_STORE_SECONDS", 0.5)
    storage.fails = lambda count: True
    body = rig.ends(rig.run(three_pictures()), "failed")
    assert body["error"] == "The workflow ran, but its outputs could not be stored"
    assert Execution.objects.get().failure_cause == FailureCause.OUTPUTS
    rig.is_clear()
    assert rig.slots.tokens() == set()


def test_outputs_stored_before_giving_up_are_kept(rig, storage, monkeypatch):
    monkeypatch.setattr(finalize, "LONGEST_STORE_SECONDS", 0.5)
    storage.fails = lambda count: count > 2
    body = rig.ends(rig.run(three_pictures()), "failed")
    assert len(body["outputs"]["images"]) == 2


def test_an_error_that_no_outage_explains_is_tried_five_times(rig, storage):
    storage.error = KeyError("a mistake of ours")
    storage.fails = lambda count: True
    rig.ends(rig.run(sleep(0.1)), "failed")
    assert len(storage.puts) == finalize.STORE_TRIES


def test_an_output_that_fails_while_others_are_stored_does_not_keep_its_place(rig, storage):
    """The storage works, and does not take this one: as with an outage of it, hours would be lost."""
    poisoned: set[str] = set()

    def fails(count: int) -> bool:
        if not poisoned:
            poisoned.add(threading.current_thread().name)
        return threading.current_thread().name in poisoned

    storage.fails = fails
    bad = rig.run(sleep(0.1))
    wait_for(lambda: storage.puts, what="the first one to fail")
    good = rig.run(sleep(0.1))
    rig.ends(good, "completed")
    rig.ends(bad, "failed")


def test_an_outage_that_begins_after_another_was_stored_is_still_an_outage(rig, storage, monkeypatch):
    """One success of another run does not make the failures of a storage that is away this run's own."""
    real = backend.size_of

    def size_of(key: str) -> int:
        if len(storage.puts) < 8:
            raise StorageUnavailable
        return real(key)

    monkeypatch.setattr(backend, "size_of", size_of)
    storage.fails = lambda count: count < 8
    rig.backend.stored_at = float("inf")
    rig.ends(rig.run(sleep(0.1)), "completed")


def test_a_run_that_is_cancelled_while_its_outputs_are_tried_leaves_nothing(rig, storage):
    before = storage.left
    storage.fails = lambda count: count > 2
    execution_id = rig.run(three_pictures())
    wait_for(lambda: len(storage.puts) > 3, what="the third one to fail")
    assert rig.cancel(execution_id) == 200
    assert rig.slots.wait_empty(timeout=40)
    assert storage.left == before


def test_a_slow_upload_is_a_sign_of_life(rig, monkeypatch):
    uploading, go_on, original = threading.Event(), threading.Event(), backend.put

    def slow(key: str, *args: Any, on_bytes: Any, **given: Any) -> None:
        uploading.set()
        while not go_on.wait(0.05):
            on_bytes(1000)
        original(key, *args, **given)

    monkeypatch.setattr(backend, "put", slow)
    execution_id = rig.run(sleep(0.1))
    assert uploading.wait(20)
    rig.silence()
    wait_for(lambda: rig.slots.live_tokens() == rig.slots.tokens() != set(), what="a sign of life")
    go_on.set()
    rig.ends(execution_id, "completed")
    assert Execution.objects.get(id=execution_id).attempt == 1


def test_a_file_that_breaks_the_view_is_a_warning_within_seconds(rig):
    async def odd(run, inputs):
        good = run.save(PNG, prefix="good", extension="png")
        return {"images": [good, {"filename": "a\nb.png", "subfolder": "", "type": "output"}]}

    rig.comfyui.classes["PreviewImage"] = NodeClass(run=odd, is_output=True)
    rig.comfyui.faults.broken_files.add("a\nb.png")
    rig.backend.forget_capabilities()
    rig.backend.refresh()
    body = rig.ends(rig.run({"1": {"class_type": "PreviewImage", "inputs": {}}}), "completed")
    assert len(body["outputs"]["images"]) == 1
    assert body["warnings"] == [
        "Node 1 (PreviewImage): its file 'a\\nb.png' is missing from the outputs, "
        "since ComfyUI does not give it"
    ]


def test_a_file_whose_name_is_no_text_is_a_warning(rig):
    """Python names a file so whose name is not UTF-8, and JSON can have it."""

    async def odd(run, inputs):
        good = run.save(PNG, prefix="good", extension="png")
        return {"images": [{"filename": "a\udcff.png", "subfolder": "", "type": "output"}, good]}

    rig.comfyui.classes["PreviewImage"] = NodeClass(run=odd, is_output=True)
    rig.backend.forget_capabilities()
    rig.backend.refresh()
    body = rig.ends(rig.run({"1": {"class_type": "PreviewImage", "inputs": {}}}), "completed")
    assert len(body["outputs"]["images"]) == 1
    assert body["warnings"] == [
        "Node 1 (PreviewImage): its file 'a\\udcff.png' is missing from the outputs, "
        "since ComfyUI does not give it"
    ]


def test_a_stalled_upload_is_not_stored(rig, monkeypatch):
    uploading, go_on, original = threading.Event(), threading.Event(), backend.put

    def stuck(key: str, *args: Any, **given: Any) -> None:
        uploading.set()
        go_on.wait(60)
        original(key, *args, **given)

    monkeypatch.setattr(backend, "put", stuck)
    rig.run(sleep(0.1))
    assert uploading.wait(20)
    rig.silence()
    assert rig.slots.live_tokens() == set()
    go_on.set()
    assert rig.slots.wait_empty(timeout=40)


def test_bytes_sent_to_s3_are_reported(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x" * 3_000_000)

    class Takes(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            left = int(self.headers["Content-Length"])
            while left:
                left -= len(self.rfile.read(min(left, 65536)))
            self.send_response(200)
            self.send_header("ETag", '"a"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Takes)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    bucket = Bucket(
        bucket_name="b", endpoint_url=address, access_key="a", secret_key="b", region_name="us-east-1"
    )
    told: list[int] = []
    bucket.put("key", path, content_type="text/plain", on_bytes=told.append)
    bucket.client.close()
    server.shutdown()
    server.server_close()
    assert len(told) > 3
    assert sum(told) >= 3_000_000


# -- the user's quota ------------------------------------------------------------------------------------
def room_for(rig, settings, size: int) -> None:
    """The user has so many bytes left."""
    user_id = Execution.objects.values_list("user_id", flat=True)[0]
    settings.QUOTA_STORAGE_BYTES = storage_use.of(user_id) + size


def test_outputs_that_fit_into_the_quota_are_kept_and_the_execution_fails(rig, storage, settings):
    execution_id = rig.submit(three_pictures())
    room_for(rig, settings, 2 * len(PNG) + 5)
    rig.slots.serve_in_thread()
    body = rig.ends(execution_id, "failed")
    assert body["error"] == (
        "The workflow ran, but your storage quota has no space for 1 output; delete files and run it again"
    )
    assert Execution.objects.get(id=execution_id).failure_cause == FailureCause.OUTPUTS
    assert len(body["outputs"]["images"]) == 2
    [warning] = body["warnings"]
    assert "missing from the outputs, since the storage quota" in warning


def test_outputs_fit_into_what_was_deleted_meanwhile(rig, storage, settings):
    """The bound that is checked first still has it."""
    execution_id = rig.submit(three_pictures())
    user_id = Execution.objects.get(id=execution_id).user_id
    deleted = File.objects.create(user_id=user_id, kind="upload", filename="a", size=10**9, key="a")
    File.objects.update(created_at=timezone.now() - timedelta(hours=1))
    settings.QUOTA_STORAGE_BYTES = 2 * 10**9
    storage_use.left(user_id)
    deleted.delete()
    room_for(rig, settings, 3 * len(PNG) + 5)
    rig.slots.serve_in_thread()
    assert len(rig.ends(execution_id, "completed")["outputs"]["images"]) == 3


def test_an_output_that_is_larger_than_the_quota_is_not_read_to_its_end(rig, storage, settings):
    execution_id = rig.submit(three_pictures())
    room_for(rig, settings, 10)
    rig.slots.serve_in_thread()
    assert rig.ends(execution_id, "failed")["outputs"] == {}
    assert not storage.puts


def test_texts_count_too(rig, settings, monkeypatch):
    monkeypatch.setattr(output_collection, "MAX_TEXT_BYTES", 5)
    execution_id = rig.submit({"1": {"class_type": "PreviewAny", "inputs": {"source": "a long text"}}})
    room_for(rig, settings, 8)
    rig.slots.serve_in_thread()
    assert "storage quota" in rig.ends(execution_id, "failed")["error"]


def test_graphs_count_and_a_submission_without_room_is_refused(rig, settings):
    first = rig.submit(three_pictures())
    user_id = Execution.objects.get(id=first).user_id
    assert storage_use.of(user_id) > 100
    room_for(rig, settings, 20)
    answer = rig.api.post("/workflows/execute", {"workflow": three_pictures()})
    assert mistakes_codes(answer) == ["QUOTA_EXCEEDED"]
    assert Execution.objects.count() == 1


def test_metadata_counts_and_a_submission_without_room_for_it_is_refused(rig, settings):
    first = rig.submit(three_pictures())
    user_id = Execution.objects.get(id=first).user_id
    before = storage_use.of(user_id)
    metadata = {"note": secrets.token_hex(16_000)}
    room_for(rig, settings, 20_000)
    answer = rig.api.post("/workflows/execute", {"workflow": three_pictures(), "metadata": metadata})
    assert mistakes_codes(answer) == ["QUOTA_EXCEEDED"]
    room_for(rig, settings, 100_000)
    answer = rig.api.post("/workflows/execute", {"workflow": three_pictures(), "metadata": metadata})
    assert answer.status_code == 200
    storage_use.forget()
    assert storage_use.of(user_id) > before + 32_000


@pytest.mark.parametrize(
    "more",
    [
        {"extra_data": {"extra_pnginfo": {"note": "x" * 30_000}}},
        {"output": {"deliver_to": {"urls": [f"https://s3.example.com/{'x' * 7_000}"] * 4}}},
    ],
    ids=["extra_data", "addresses"],
)
def test_what_comes_with_a_graph_counts_and_needs_room(rig, settings, more):
    rig.submit(three_pictures())
    room_for(rig, settings, 20_000)
    answer = rig.api.post("/workflows/execute", {"workflow": three_pictures(), **more})
    assert mistakes_codes(answer) == ["QUOTA_EXCEEDED"]


def mistakes_codes(answer: Any) -> list[str]:
    body = assert_error(answer, 429, "rate_limit_exceeded")
    return [detail["code"] for detail in body["details"]]


# -- power cuts --------------------------------------------------------------------------------------------
def test_outputs_and_their_folders_are_on_disk_before_the_end_is_recorded(rig, monkeypatch):
    """After a power cut nothing may be completed whose bytes, or whose new folder, are gone."""
    synced: list[str] = []
    at_the_end: list[set[str]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(backend, "_durable", set())  # an earlier test may have stored in the same folder
    before(monkeypatch, state_machine, "finish", lambda *_, **__: at_the_end.append(set(synced)))
    rig.ends(rig.run(sleep(0.1)), "completed")
    output = Output.objects.get()
    assert output.file is not None
    path, root = Path(default_storage.path(output.file.key)), Path(default_storage.path(""))
    on_the_way = [path, *(folder for folder in path.parents if folder.is_relative_to(root))]
    assert len(on_the_way) == 4  # the file, its folder of 256, that of all outputs, the storage
    assert {str(each.resolve()) for each in on_the_way} <= at_the_end[0]


@pytest.mark.parametrize("in_memory", [False, True])
def test_folders_are_synced_again_only_if_they_may_be_new(monkeypatch, tmp_path, in_memory):
    """Each costs a commit of the file system's journal. (Other tests' threads may still store outputs.)"""
    synced: list[str] = []
    thread = threading.get_ident()

    def fsync(descriptor: int) -> None:
        if threading.get_ident() == thread:
            synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    monkeypatch.setattr(os, "fsync", fsync)
    root = Path(default_storage.path("")).resolve()
    own = f"only-{uuid4().hex}"

    def put(key: str) -> list[str]:
        (tmp_path / "bytes").write_bytes(b"x")
        backend.put(f"{own}/{key}", b"x" if in_memory else tmp_path / "bytes", content_type="text/plain")
        found = [path.removeprefix(str(root)).strip("/") for path in synced]
        synced.clear()
        return [path.replace(own, "own") for path in found]

    assert put("aa/1") == ["own/aa/1", "own/aa", "own", ""]
    assert put("aa/2") == ["own/aa/2", "own/aa"]
    assert put("bb/1") == ["own/bb/1", "own/bb", "own"]
    shutil.rmtree(root / own)
    assert put("aa/3") == ["own/aa/3", "own/aa", "own", ""]
