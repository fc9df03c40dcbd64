from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from tests.factories import HANDLER, make_user


def client_of(user: Any) -> Client:
    """A browser in which this user is logged in."""
    client = Client(raise_request_exception=False)
    client.handler = HANDLER
    client.force_login(user)
    return client


@pytest.fixture
def operator(db: Any) -> Any:
    return make_user("operator", is_staff=True, is_superuser=True)


@pytest.fixture
def console(operator: Any) -> Client:
    return client_of(operator)
