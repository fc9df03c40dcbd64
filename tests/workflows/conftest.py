from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfyserve.ttl_cache import TtlCache
from script.harness import graphs
from tests.api.described import differences
from tests.factories import Api, make_user
from tests.scripted_comfyui import ScriptedComfyUI
from tests.workflows.delivering import Bucket
from tests.workflows.rig import Rig, ends


@pytest.fixture
def alice(db: Any) -> Api:
    return Api.of(make_user("alice"))


@pytest.fixture
def bob(db: Any) -> Api:
    return Api.of(make_user("bob"))


@pytest.fixture
def caches_that_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for once is known to the end of the test, however slow: for counts of statements."""
    known: dict[TtlCache[Any], Any] = {}

    def kept(cache: TtlCache[Any]) -> Any:
        if cache not in known:
            known[cache] = cache._ask()
        return known[cache]

    monkeypatch.setattr(TtlCache, "__call__", kept)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """For servers that run under an account of their own. Not `tmp_path`: every other run of pytest on this
    machine closes the folder above that one to other accounts."""
    with tempfile.TemporaryDirectory(prefix="comfyserve-tests-") as name:
        yield Path(name)


@pytest.fixture
def rig(transactional_db: None) -> Iterator[Rig]:
    with ScriptedComfyUI() as comfyui:
        rig = Rig(comfyui)
        yield rig
        rig.close()


@pytest.fixture
def message(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The message about the end of an execution that has completed."""
    messages = ends(monkeypatch)
    rig.ends(rig.run(graphs.colour(1)), "completed")
    assert rig.slots.wait_empty(timeout=20)
    [message] = messages
    return message


@pytest.fixture
def bucket(s3_server: Any) -> Bucket:
    return Bucket(s3_server)


@pytest.fixture
def destination(rig: Rig, bucket: Bucket) -> Bucket:
    """The bucket, saved by the user of `rig` as "mine"."""
    answer = rig.api.post("/destinations/", bucket.saved)
    assert answer.status_code == 201, answer.content
    assert differences("post", "/destinations/", answer) == []
    return bucket
