"""Real answers have exactly the keys that openapi.yaml describes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from accounts.models import User
from comfyserve.api.docs import schema
from tests.factories import Api
from tests.workflows import graphs
from workflows.models import FailureCause, Level, Status
from workflows.queue import claims, state_machine
from workflows.queue.execution_log import Line


@pytest.fixture
def ended(as_alice: Api, alice: User) -> str:
    """The id of a failed execution with lines of log."""
    answer = as_alice.post("/workflows/execute", {"workflow": graphs.colour(1)})
    claim = claims.take(worker="w")
    assert claim is not None
    assert state_machine.begin(claim, total_steps=1)
    outcome = state_machine.Outcome(
        Status.FAILED,
        error="no",
        error_details={"type": "x"},
        failure_cause=FailureCause.NODE,
        lines=[Line("no", Level.ERROR)],
        warnings=["left out"],
    )
    assert state_machine.finish(claim, outcome)
    return str(answer.json()["execution_id"])


def differences(described: dict[str, Any], body: Any, at: str = "") -> Iterator[str]:
    """Keys that are in the answer only, and required ones that are in the description only."""
    if "$ref" in described:
        name = described["$ref"].rpartition("/")[2]
        described = schema()["components"]["schemas"][name]
    choices = described.get("oneOf") or described.get("anyOf") or described.get("allOf")
    if choices:
        found = [list(differences(choice, body, at)) for choice in choices]
        yield from min(found, key=len)
    elif isinstance(body, list):
        for each in body:
            yield from differences(described.get("items", {}), each, f"{at}[]")
    elif isinstance(body, dict) and "properties" in described:
        known = described["properties"]
        yield from (f"{at}.{key} is not described" for key in set(body) - set(known))
        yield from (f"{at}.{key} is missing" for key in set(described.get("required", ())) - set(body))
        for key in set(known) & set(body):
            yield from differences(known[key], body[key], f"{at}.{key}")


def check(api: Api, method: str, path: str, *, body: Any = None, **parameters: str) -> None:
    address = path.format(**parameters)
    answer = getattr(api, method)(address) if body is None else getattr(api, method)(address, body)
    assert answer.status_code < 300, answer.content
    route = next(each for each in schema()["paths"] if each.rstrip("/") == path.partition("?")[0].rstrip("/"))
    operation = schema()["paths"][route][method]
    described = operation["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
    assert list(differences(described, answer.json())) == [], (method, path)


@pytest.mark.parametrize(
    "path",
    [
        "/workflows/{execution_id}",
        "/workflows/{execution_id}?include=workflow",
        "/workflows/{execution_id}/status",
        "/workflows/{execution_id}/logs",
        "/workflows",
        "/auth/me",
        "/auth/keys",
        "/files",
        "/models",
        "/workflows/{execution_id}/webhooks",
    ],
)
def test_what_is_read(as_alice: Api, ended: str, path: str) -> None:
    check(as_alice, "get", path, execution_id=ended)


def test_what_is_submitted_retried_and_cancelled(as_alice: Api, ended: str) -> None:
    check(as_alice, "post", "/workflows/execute", body={"workflow": graphs.colour(2)})
    check(as_alice, "post", "/workflows/{execution_id}/retry", body={}, execution_id=ended)
    waiting = as_alice.post("/workflows/execute", {"workflow": graphs.colour(3)}).json()["execution_id"]
    check(as_alice, "post", "/workflows/{execution_id}/cancel", body={}, execution_id=waiting)
    check(as_alice, "delete", "/workflows/{execution_id}", execution_id=ended)


@pytest.mark.parametrize("path", ["/health", "/health/liveness", "/health/readiness", "/metrics"])
def test_what_is_public(stranger: Api, path: str) -> None:
    check(stranger, "get", path)


def test_what_is_uploaded_and_listed(as_alice: Api) -> None:
    picture = SimpleUploadedFile("a.txt", b"hello")
    answer = as_alice.post("/files/upload", data={"file": picture})
    assert answer.status_code == 200, answer.content
    check(as_alice, "get", "/files")
    check(as_alice, "get", "/files/{file_id}/info", file_id=answer.json()["file_id"])


def test_keys(as_alice: Api) -> None:
    check(as_alice, "post", "/auth/keys", body={"name": "a"})
    check(as_alice, "get", "/auth/keys")
