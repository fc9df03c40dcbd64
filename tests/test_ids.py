"""Ids in the order of time."""

from __future__ import annotations

import time
from uuid import RFC_4122, UUID

import pytest

from accounts.models import User
from comfyserve import ids
from files.models import new_file_id
from script.harness import graphs
from tests.factories import Api
from workflows.models import Execution


def test_an_id_has_the_milliseconds_and_74_random_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_645_557_742_000_123_456)
    several = [ids.uuid7() for _ in range(200)]
    # The example of RFC 9562 is of this moment.
    assert all(str(each).startswith("017f22e2-79b0-7") for each in several)
    assert {(each.version, each.variant) for each in several} == {(7, RFC_4122)}
    always = several[0].int
    ever = 0
    for each in several:
        always &= each.int
        ever |= each.int
    assert (always ^ ever).bit_count() == 74


def test_later_ids_are_greater(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    several = []
    for later in range(0, 10**10, 10**6):
        monkeypatch.setattr(time, "time_ns", lambda later=later: now + later)
        several.append(ids.uuid7())
    assert several == sorted(several)


def test_executions_batches_and_files_have_them(alice: User) -> None:
    api, batch = Api.of(alice), {"workflow": graphs.colour(1), "inputs": [{"1.color": 2}]}
    batch_id = api.post("/workflows/batch", batch).json()["batch_id"]
    execution_id = api.post("/workflows/execute", {"workflow": graphs.colour(1)}).json()["execution_id"]
    prompt_id = api.post("/comfyui/prompt", {"prompt": graphs.colour(3)}).json()["prompt_id"]
    assert {UUID(each).version for each in (batch_id, execution_id, prompt_id)} == {7}
    assert {row.id.version for row in Execution.objects.all()} == {7}
    assert UUID(new_file_id().removeprefix("file_")).version == 7
