from __future__ import annotations

from typing import Any

import pytest

from tests.people import Api, make_user


@pytest.fixture
def bare_stack(stack: Any) -> Any:
    """The stack without any worker: those kept for other tests would serve the same ComfyUI."""
    for name in list(stack.workers):
        stack.workers.pop(name).stop()
    stack.sql("DELETE FROM workflows_worker")
    # What a failed test left waiting would run in the next one, and may be made to kill its ComfyUI.
    stack.sql("DELETE FROM workflows_execution WHERE status IN ('pending', 'running')")
    return stack


@pytest.fixture
def alice(db: Any) -> Api:
    return Api.of(make_user("alice"))


@pytest.fixture
def bob(db: Any) -> Api:
    return Api.of(make_user("bob"))
