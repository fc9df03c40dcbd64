from __future__ import annotations

import pytest

from accounts.models import User
from tests.people import PASSWORD, Api, make_user


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
