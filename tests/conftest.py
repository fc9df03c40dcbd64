from __future__ import annotations

from collections.abc import Iterator

import pytest

from accounts import storage_use
from accounts.models import User
from comfyserve import outages
from script.harness.stack import Stack
from tests import open_transactions
from tests.factories import PASSWORD, Api, make_user
from workflows.graph import node_info, node_policy


@pytest.fixture(autouse=True)
def policy_is_read_anew() -> None:
    """What one test said of workers and node rules is not known to the next."""
    node_info.cached_digests.forget()
    node_policy.cached_fleet_confines.forget()
    node_policy.cached_rules.forget()
    storage_use.forget()


open_transactions.install()


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
    stack.sql(
        "UPDATE workflows_execution SET status = 'cancelled', completed_at = now(), claim_token = NULL,"
        " held = NULL WHERE status IN ('pending', 'running')"
    )
    return stack
