"""The transaction watcher detects slow calls, and nothing else."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import pytest
import redis
from django.conf import settings
from django.db import transaction

from comfyserve import outages
from files import backend
from tests import open_transactions
from workflows import notify


@pytest.fixture
def noticed(db: Any) -> Any:
    yield open_transactions.found
    open_transactions.found.clear()


def test_a_call_of_redis_inside_a_transaction_is_noticed(noticed):
    with transaction.atomic():
        notify.announce_preview(UUID(int=0), {})
    assert any(
        each.startswith("a call of Redis inside a transaction: workflows/notify.py") for each in noticed
    )


def test_a_call_of_the_storage_inside_a_transaction_is_noticed(noticed):
    with transaction.atomic():
        backend.delete("files/none")
    assert len(noticed) == 1


def test_a_sleep_inside_a_transaction_is_noticed(noticed, monkeypatch):
    with transaction.atomic():
        exec(compile("import time; time.sleep(0.02)", outages.__file__, "exec"), {})
    assert len(noticed) == 1
    assert "a sleep" in noticed[0]


def test_calls_outside_a_transaction_and_in_the_tests_own_are_not(noticed):
    notify.announce_preview(UUID(int=0), {})
    with transaction.atomic(), redis.Redis.from_url(settings.REDIS_URL) as client:
        client.ping()
        time.sleep(0.02)
    assert noticed == []
