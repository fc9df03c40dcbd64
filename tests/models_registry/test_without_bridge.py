"""A ComfyUI without our custom node: what works, and that the limits are reported."""

from __future__ import annotations

import threading
import uuid

import pytest

from comfyui import Client
from comfyui.bridge import Bridge, NoBridge
from models_registry import loading, queries, reporting, representations
from models_registry import models as tables
from tests.models_registry.conftest import CHECKPOINT
from tests.services import TestComfyUI

pytestmark = pytest.mark.django_db(transaction=True)  # a step gives its connection back
HOST = "bare"


@pytest.fixture(scope="module")
def bare():
    comfyui = TestComfyUI("comfyui-bare", bridge=False)
    comfyui.start()
    yield comfyui
    comfyui.stop()


@pytest.fixture
def client(bare):
    with Client(bare.url) as client:
        yield client


@pytest.fixture
def reported(client):
    reporting.report(HOST, client)
    return queries.listing()


def test_it_is_known_to_lack_it(client):
    assert Bridge(client).info() is None
    with pytest.raises(NoBridge):
        Bridge(client).memory()


def test_files_come_from_comfyuis_own_routes(reported):
    found = {(entry.type, entry.name): entry for entry in reported.entries}
    [file] = found["checkpoint", CHECKPOINT].files
    assert file["path"].endswith(f"/checkpoints/{CHECKPOINT}")
    assert file["size"] > 100_000_000


def test_the_list_says_that_memory_is_not_known(reported):
    shown = representations.listing(reported)
    assert HOST in shown["note"]
    assert shown["available_memory_mb"] > 0
    assert not any(model["is_loaded"] for model in shown["models"])


def test_load_reads_the_file_and_says_what_it_could_not_do(client, reported):
    prompt_id, stop = str(uuid.uuid4()), threading.Event()
    answer = loading.load(HOST, client, type_="checkpoint", name=CHECKPOINT, prompt_id=prompt_id, stop=stop)
    assert "bridge" in answer["note"]
    assert client.history(prompt_id) is None  # nothing is left behind


def test_unload_frees_everything_and_says_so(client, reported):
    answer = loading.unload(
        HOST, client, type_="checkpoint", name=CHECKPOINT, drop=True, stop=threading.Event()
    )
    assert "all its models" in answer["note"]


def test_cleanup_leaves_alone_what_may_be_in_use(client, reported):
    tables.Model.objects.filter(name=CHECKPOINT).update(last_used="2999-01-01T00:00:00Z")
    answer = loading.cleanup(HOST, client, max_age_hours=1, stop=threading.Event())
    assert answer["unloaded"] == []
    assert "nothing was unloaded" in answer["note"]
