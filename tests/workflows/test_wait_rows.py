"""`Prefer: wait` answers with the rows in the message about the end, and reads none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from accounts.credentials import Credential
from comfyserve.api.rendering import rendered
from workflows.api.result_bodies import ResultBody
from workflows.presentation import representations, selectors
from workflows.streaming import asgi
from workflows.streaming.broadcaster import Broadcaster
from workflows.streaming.subscriber import EndWaiter

BASE = "https://here"


def test_the_result_is_that_of_the_database(message):
    execution_id = UUID(message["id"])
    found = selectors.whole(execution_id)
    assert found is not None
    made = ResultBody(execution_id, message["user"], BASE).from_rows(message["rows"])
    assert isinstance(made, bytes)
    assert json.loads(made) == json.loads(rendered(representations.result_of(found, base=BASE)))


def test_it_makes_no_query(message, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert ResultBody(UUID(message["id"]), message["user"], BASE).from_rows(message["rows"])


def test_rows_of_another_user_or_execution_are_not_used(message):
    id_, user = UUID(message["id"]), message["user"]
    for execution_id, user_id in ((id_, user + 1), (uuid4(), user)):
        assert not ResultBody(execution_id, user_id, BASE).from_rows(message["rows"])


@pytest.mark.parametrize(
    ("rows", "expected"), [("the rows", b"from the rows"), ("x" * 100_000, None), (None, None)]
)
def test_short_rows_reach_who_waits(rows: str | None, expected: bytes | None):
    id_ = uuid4()
    assert asyncio.run(_content_after(id_, {"rows": rows}, lambda rows: f"from {rows}".encode())) == expected


async def _content_after(
    id_: UUID, more: dict[str, Any], from_rows: Callable[[str], bytes | None]
) -> bytes | None:
    broadcaster, credential = Broadcaster(), Credential("user", 1)
    waiter = EndWaiter(id_, credential)
    broadcaster._end_waiters[id_].add(waiter)
    broadcaster._on_message(json.dumps({"type": "lines", "id": str(id_), "ended": True, **more}).encode())
    assert await waiter.wait(1)
    wait = asgi.Wait((id_,), 1, lambda: None, credential, lambda: b"", from_rows=from_rows)
    body = asgi._result_from_message(wait, [waiter])
    assert not isinstance(body, asgi.WithFiles)
    return body
