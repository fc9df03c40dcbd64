from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from django.db import connection

from accounts import storage_use
from accounts.models import User
from comfyserve import outages, ttl_cache
from script.harness.stack import Stack, copy_database
from tests import databases, migrated_postgres, open_transactions, quick_flush
from tests.factories import PASSWORD, Api, make_user
from tests.services import services


@pytest.fixture(scope="session")
def django_db_setup(request: pytest.FixtureRequest, django_db_blocker: Any) -> str | None:
    """The database of the tests, and a copy of it before any test has used it: its name.

    In a process of several it is the copy that comes first, from the run's template. Otherwise pytest-django
    migrates. None on a server that we did not start, where the database may be that of an earlier run; and
    if no test of this run is marked with `django_db`: then pytest-django creates none.
    """
    if services.migrated is None:
        request.getfixturevalue("django_db_setup")
    name = connection.settings_dict["NAME"]
    copies = (name, migrated_postgres.DATABASE)
    if services.migrated is not None:
        connection.settings_dict["NAME"] = f"test_{name}"
        copies = (migrated_postgres.DATABASE, f"test_{name}")
    elif services.postgres is None or services.database_url.endswith(f"/{name}"):
        return None
    with django_db_blocker.unblock():
        databases.disconnect()
        copy_database(services.database_url, *copies)
    return migrated_postgres.DATABASE


@pytest.fixture(autouse=True)
def caches_are_empty() -> None:
    """What one test said of workers, node rules and queues is not known to the next."""
    ttl_cache.forget_all()
    storage_use.forget()


# A busy machine may take a second for any example.
hypothesis.settings.register_profile("ours", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("ours")
open_transactions.install()
quick_flush.install()


@pytest.fixture(autouse=True)
def nothing_slow_happens_inside_a_transaction() -> Iterator[None]:
    open_transactions.found.clear()
    yield
    assert open_transactions.found == []


@pytest.fixture(autouse=True)
def redis_is_tried_again() -> None:
    """That one test took Redis away does not make the next do without it."""
    outages.redis.reset()


@pytest.fixture
def alice(db: None) -> User:
    return make_user("alice", password=PASSWORD)


@pytest.fixture
def bob(db: None) -> User:
    return make_user("bob")


@pytest.fixture
def as_alice(alice: User) -> Api:
    return Api.of(alice)


@pytest.fixture
def as_bob(bob: User) -> Api:
    return Api.of(bob)


@pytest.fixture
def stranger(db: None) -> Api:
    return Api()


@pytest.fixture
def bare_stack(stack: Stack) -> Stack:
    """The stack without any worker: those kept for other tests would take what is submitted."""
    for name in list(stack.workers):
        stack.workers.pop(name).stop()
    stack.sql("DELETE FROM workflows_worker")
    # What another test left waiting would run in this one, and may be made to kill its ComfyUI.
    stack.cancel_executions()
    return stack
