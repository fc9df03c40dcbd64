"""A request with an `Idempotency-Key` stores its files before it opens a transaction."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection

from accounts.models import IdempotencyRecord
from files import backend
from files.errors import StorageUnavailable
from files.models import File
from script.harness.waiting import wait_for
from tests.files.conftest import picture
from tests.workflows.test_inputs import data_url, loading
from tests.workflows.test_row_locks import another_session
from workflows.models import Execution

PICTURE = loading(data_url(picture()))


class SlowUploads:
    """The real storage; what is uploaded waits until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        put = backend.put

        def slow(key: str, *args: Any, **given: Any) -> None:
            if key.startswith("uploads/"):
                self.reached.set()
                assert self.go_on.wait(100)
            put(key, *args, **given)

        monkeypatch.setattr(backend, "put", slow)


@contextmanager
def submitting(rig: Any, path: str, body: Any) -> Iterator[Any]:
    def post() -> Any:
        try:
            return rig.api.post(path, body, headers={"Idempotency-Key": "k"})
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(post)


def open_transactions() -> list[Any]:
    with another_session() as session:
        return session.execute(
            "SELECT state, query FROM pg_stat_activity WHERE datname = current_database()"
            " AND xact_start IS NOT NULL AND pid <> pg_backend_pid()"
        ).fetchall()


@pytest.mark.parametrize(
    "path, more",
    [("/workflows/execute", {}), ("/workflows/batch", {"inputs": [{"2.filename_prefix": "a"}]})],
)
def test_slow_storage_holds_no_lock_that_a_finishing_run_needs(rig, monkeypatch, path, more):
    running = rig.run_at_gate()
    uploads = SlowUploads(monkeypatch)
    with submitting(rig, path, {"workflow": PICTURE, **more}) as answer:
        try:
            assert uploads.reached.wait(30)
            assert IdempotencyRecord.objects.get().status == 0
            rig.comfyui.gate.set()
            rig.ends(running, "completed")
            wait_for(lambda: not open_transactions(), what="no transaction to be open")
        finally:
            uploads.go_on.set()
        first = answer.result()
    assert first.status_code == 200, first.content
    again = rig.api.post(path, {"workflow": PICTURE, **more}, headers={"Idempotency-Key": "k"})
    assert again.content == first.content
    assert Execution.objects.count() == 2


def test_storage_that_fails_frees_the_key(rig, monkeypatch):
    body = {"workflow": PICTURE}
    with monkeypatch.context() as broken:
        broken.setattr(backend, "put", lambda *_, **__: (_ for _ in ()).throw(StorageUnavailable()))
        assert rig.api.post("/workflows/execute", body, headers={"Idempotency-Key": "k"}).status_code == 503
    assert not IdempotencyRecord.objects.exists()
    assert not File.objects.exists()
    assert rig.api.post("/workflows/execute", body, headers={"Idempotency-Key": "k"}).status_code == 200
    assert Execution.objects.count() == 1
