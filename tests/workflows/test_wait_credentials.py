"""A request that waits for a result gets none once its login or key has been revoked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests

from script.harness import graphs
from script.harness.stack import Person, Stack
from script.harness.waiting import wait_for

SOON = 30.0  # seconds, on a busy machine; it is looked at every three
WAIT = 60  # seconds; the limit of what is asked for


@pytest.fixture
def site(bare_stack: Stack) -> Stack:
    """No worker: what is submitted waits."""
    return bare_stack


def app_of(person: Person) -> str:
    workflow = graphs.colour(1)
    inputs = [{"name": "prompt", "node": "2", "input": "filename_prefix"}]
    answer = person.post("/apps/", {"name": "waits", "workflow": workflow, "inputs": inputs})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["app"])


def execute(person: Person) -> tuple[str, dict[str, Any], dict[str, str]]:
    return "/workflows/execute", {"workflow": graphs.colour(1)}, {"Prefer": f"wait={WAIT}"}


def run_app(person: Person) -> tuple[str, dict[str, Any], dict[str, str]]:
    return f"/apps/{app_of(person)}/run", {"inputs": {}}, {"Prefer": f"wait={WAIT}"}


def images(person: Person) -> tuple[str, dict[str, Any], dict[str, str]]:
    return "/v1/images/generations", {"model": app_of(person), "prompt": "x"}, {}


def tool(person: Person) -> tuple[str, dict[str, Any], dict[str, str]]:
    arguments = {"app": app_of(person), "inputs": {}, "wait_seconds": WAIT}
    called = {"name": "run_app", "arguments": arguments}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": called}
    return "/mcp", body, {"Accept": "application/json, text/event-stream"}


def log_out(person: Person, key_id: str) -> None:
    assert person.post("/auth/logout").ok


def delete_key(person: Person, key_id: str) -> None:
    assert person.session.delete(f"{person.url}/auth/keys/{key_id}", timeout=30).ok


@pytest.mark.parametrize("asked", [execute, run_app, images, tool])
@pytest.mark.parametrize("revoke", [log_out, delete_key])
def test_a_wait_ends_when_its_credential_is_revoked(site, asked, revoke: Callable[[Person, str], None]):
    person = site.person("waits")
    key = person.post("/auth/keys", {"name": "waits"}).json()
    path, body, headers = asked(person)
    bearer = person.session.headers["Authorization"] if revoke is log_out else f"Bearer {key['key']}"
    answers: list[requests.Response] = []

    def ask() -> None:
        told = {**headers, "Authorization": str(bearer)}
        answers.append(requests.post(person.url + path, json=body, headers=told, timeout=WAIT + 20))

    waiting = threading.Thread(target=ask)
    waiting.start()
    wait_for(lambda: waits_of(site, person), what="the execution")
    revoke(person, key["id"])
    began = time.monotonic()
    waiting.join(WAIT)
    assert time.monotonic() - began < SOON
    [answer] = answers
    assert "was revoked" in answer.text
    assert answer.status_code == (200 if path == "/mcp" else 401)
    if path == "/mcp":
        assert answer.json()["result"]["isError"]
    elif path.startswith("/v1"):
        assert answer.json()["error"]["type"] == "authentication_error"
    else:
        assert answer.json()["error"] == "unauthorized"


def waits_of(site: Stack, person: Person) -> int:
    [(count,)] = site.sql(
        "SELECT count(*) FROM workflows_execution WHERE status = 'pending' AND user_id ="
        " (SELECT id FROM accounts_user WHERE email = %s)",
        person.email,
    )
    return int(count)
