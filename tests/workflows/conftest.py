from __future__ import annotations

from typing import Any

import pytest

from tests.people import Api, make_user


@pytest.fixture
def alice(db: Any) -> Api:
    return Api.of(make_user("alice"))


@pytest.fixture
def bob(db: Any) -> Api:
    return Api.of(make_user("bob"))
