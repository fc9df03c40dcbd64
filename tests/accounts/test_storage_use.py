"""The storage quota, whose sum costs the same however much a user has."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import storage_use, usage
from accounts.models import CountedStorage, User
from comfyserve.api.errors import LimitExceeded
from files.models import File, Kind
from script.harness import graphs
from tests.factories import Api


@pytest.fixture(autouse=True)
def limited(settings: Any) -> None:
    settings.QUOTA_STORAGE_BYTES = 1_000


def make_file(user: User, *, size: int, key: str, age: timedelta = timedelta(0)) -> File:
    file = File.objects.create(
        user=user, kind=Kind.UPLOAD, filename="a", content_type="x", size=size, key=key
    )
    File.objects.filter(id=file.id).update(created_at=timezone.now() - age)
    return file


def test_only_what_is_new_is_counted_again(alice: User) -> None:
    for number in range(5):
        make_file(alice, size=100, key=str(number), age=timedelta(hours=1))
    storage_use.check(user=alice, adding=500)
    with CaptureQueriesContext(connection) as queries:
        storage_use.check(user=alice, adding=500)
    [counting] = [each["sql"] for each in queries if "files_file" in each["sql"]]
    assert "created_at <" not in counting
    make_file(alice, size=1, key="new")
    with pytest.raises(LimitExceeded, match="501 are, and this adds 500"):
        storage_use.check(user=alice, adding=500)


def test_another_process_adds_up_only_what_came_since(alice: User) -> None:
    make_file(alice, size=100, key="old", age=timedelta(hours=2))
    assert storage_use.left(alice.pk) == 900
    CountedStorage.objects.update(moment=timezone.now() - timedelta(hours=1))
    make_file(alice, size=10, key="later", age=timedelta(minutes=30))
    make_file(alice, size=1, key="new")
    storage_use.forget()
    with CaptureQueriesContext(connection) as queries:
        assert storage_use.left(alice.pk) == 889
    statements = [each["sql"] for each in queries if "files_file" in each["sql"]]
    assert all("created_at >=" in each for each in statements)
    storage_use.forget()
    assert storage_use.left(alice.pk) == 889


def test_what_is_left_is_exact_where_something_is_refused(alice: User) -> None:
    old = make_file(alice, size=900, key="old", age=timedelta(hours=1))
    assert storage_use.left(alice.pk) == 100
    old.delete()
    assert storage_use.left(alice.pk) == 100
    assert storage_use.left(alice.pk, exact=True) == 1_000
    assert storage_use.left(alice.pk) == 1_000


def test_operators_see_what_was_deleted_for_a_day_at_most(alice: User) -> None:
    make_file(alice, size=900, key="old", age=timedelta(hours=1)).delete()
    assert usage.stored(alice) == (0, 0)
    make_file(alice, size=900, key="old", age=timedelta(hours=1))
    CountedStorage.objects.update(counted_at=timezone.now() - timedelta(days=2))
    assert usage.stored(alice) == (900, 1)


def test_what_was_deleted_leaves_room_at_once(alice: User) -> None:
    old = make_file(alice, size=900, key="old", age=timedelta(hours=1))
    storage_use.check(user=alice, adding=100)
    old.delete()
    storage_use.check(user=alice, adding=1_000)


def test_shared_bytes_count_once(alice: User) -> None:
    make_file(alice, size=600, key="shared", age=timedelta(hours=1))
    make_file(alice, size=600, key="shared")
    storage_use.check(user=alice, adding=400)


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(hours=1)], ids=["right", "ahead"])
def test_the_graphs_of_executions_count_at_once(
    alice: User, settings: Any, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    """Also where the clock of this process is ahead of PostgreSQL's, which dates executions."""
    now = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: now() + ahead)
    api = Api.of(alice)
    settings.QUOTA_STORAGE_BYTES = storage_use.of(alice.pk) + 3_000
    statuses = [
        api.post("/workflows/execute", {"workflow": graphs.colour(number)}).status_code
        for number in range(30)
    ]
    assert statuses[0] == 200
    assert statuses[-1] == 429
