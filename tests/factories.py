"""A cast that everybody knows: Alice owns, Bob is a stranger to her things. And how they talk to the API."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponseBase
from django.test import Client
from django.test.client import ClientHandler

from accounts import sessions
from accounts.models import User

# One for all: loading the middleware anew for each client takes longer than most requests.
HANDLER = ClientHandler(enforce_csrf_checks=False)
PASSWORD = "correct horse battery"


def make_user(name: str, *, password: str | None = None, **fields: Any) -> User:
    """A user `name@example.com`. Without `password` it has none: hashing one takes its time."""
    user = User(username=name, email=f"{name}@example.com", **fields)
    if password:
        user.set_password(password)
    else:
        user.set_unusable_password()
    user.save()
    return user


class Api:
    """A client that speaks JSON, with a bearer token or without."""

    def __init__(self, token: str | None = None, **headers: str) -> None:
        self.client = Client(raise_request_exception=False)
        self.client.handler = HANDLER
        self.headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **headers}

    @classmethod
    def of(cls, user: User) -> Api:
        return cls(sessions.start(user=user).access_token)

    def __call__(self, method: str, path: str, json: Any = None, **options: Any) -> Any:
        headers = {**self.headers, **options.pop("headers", {})}
        if json is not None:
            options |= {"data": json, "content_type": "application/json"}
        return getattr(self.client, method.lower())(path, headers=headers, **options)

    def get(self, path: str, **options: Any) -> Any:
        return self("get", path, **options)

    def post(self, path: str, json: Any = None, **options: Any) -> Any:
        if json is None and "data" not in options:
            options |= {"data": b"", "content_type": "application/json"}
        return self("post", path, json, **options)

    def delete(self, path: str, **options: Any) -> Any:
        return self("delete", path, **options)


def assert_error(response: HttpResponseBase, status: int, error: str) -> dict[str, Any]:
    """The response has the one shape of error; its body."""
    assert response.status_code == status, getattr(response, "content", "")
    body: dict[str, Any] = response.json()  # type: ignore[attr-defined]
    assert list(body) == ["error", "message", "details", "timestamp", "request_id"]
    assert body["error"] == error
    assert body["request_id"] == response["X-Request-ID"]
    return body


def mistakes(body: dict[str, Any]) -> dict[str, str]:
    """The details of an error: field and code."""
    return {detail["field"]: detail["code"] for detail in body["details"]}
