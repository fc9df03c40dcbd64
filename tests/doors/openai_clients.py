"""Unmodified clients of OpenAI's package, closed at the end of the test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import openai

_open: list[openai.OpenAI] = []


def client_of(person: Any) -> openai.OpenAI:
    import openai  # takes a second, and conftest.py imports this module

    key = person.session.headers["Authorization"].removeprefix("Bearer ")
    client = openai.OpenAI(base_url=f"{person.url}/v1", api_key=key, max_retries=0, timeout=60)
    _open.append(client)
    return client


def close_clients() -> None:
    while _open:
        _open.pop().close()
