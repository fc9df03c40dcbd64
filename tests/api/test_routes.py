"""Every route of the service: public ones are on a short list, all others require authentication.

A new route is covered by itself. One with an object in its path needs an entry in `OTHERS_OBJECT`, a
public one a line in `PUBLIC`; until then these tests fail.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from django.urls import URLPattern, URLResolver, get_resolver

from accounts import api_keys
from accounts.models import User
from apps_catalog import catalog
from doors.openai import videos
from files.models import Destination, File, Kind
from script.harness import graphs
from tests.factories import Api
from workflows.models import Batch, Execution

METHODS = ["get", "head", "options", "post", "put", "patch", "delete"]

# Strangers may ask these; each says why.
PUBLIC = {
    "/auth/register",
    "/auth/login",
    "/auth/refresh",
    "/auth/password/reset",  # whoever forgot the password cannot log in
    "/auth/password/reset/confirm",
    "/schema",
    "/",
    "/favicon.ico",
    "/docs",
    "/redoc",
    "/health/",
    "/health/detailed",
    "/health/readiness",
    "/health/liveness",
    "/metrics/",  # unless METRICS_TOKEN is set
}


def _execution(user: User) -> Any:
    return Execution.objects.create(user=user, timeout_minutes=1, turn=0, start=0, finish=0, cost=1).id


def _file(user: User) -> Any:
    return File.objects.create(
        user=user,
        kind=Kind.UPLOAD,
        filename="a.png",
        content_type="image/png",
        size=1,
        sha256="0",
        key="0",
        blake3="0" * 64,
    ).id


# Makes an object of the user and gives what stands for it in a path, by the parameter's name.
OTHERS_OBJECT: dict[str, Callable[[User], Any]] = {
    "execution_id": _execution,
    "prompt_id": _execution,
    "file_id": _file,
    "job_id": _execution,
    "video_id": lambda user: _video(user),
    "batch_id": lambda user: Batch.objects.create(user=user, total=1, remaining=1).id,
    "app": lambda user: _app(user),
    "delivery_id": lambda user: 1,  # looked for among those of the execution
    "digest": lambda user: f"blake3:{File.objects.get(id=_file(user)).blake3}",
    "destination": lambda user: Destination.objects.create(user=user, name="theirs").name,
    "key_id": lambda user: api_keys.create(user=user, name="x")[0].id,
}


def _video(user: User) -> Any:
    execution_id = _execution(user)
    Execution.objects.filter(id=execution_id).update(metadata={videos.MARK: {}})
    return execution_id


def _app(user: User) -> Any:
    """As all but its owner call it."""
    made = catalog.create(user=user, name="theirs", workflow=graphs.colour(1))
    return made.app.address


# These name no object that belongs to a user; `name` and `path` of ComfyUI's user data are the caller's own.
SHARED = {"model_name", "path", "worker_name", "class_type", "folder", "name"}
# ComfyUI responds with one of these, or `null`, if the object does not exist.
EMPTY = ("/history/{prompt_id}", "/object_info/{class_type}", "/settings/{name}", "/jobs/{job_id}/cancel")
NOTHING = (b"", b"{}", b'{"cancelled":false}')
JOBS = ("/comfyui/jobs", "/comfyui/api/jobs")  # as in ComfyUI, their errors are a message without a code
# A path that leads outside is a mistake and not an object.
PATHS = "/userdata/{path}"
# Staff may ask these; all others get 403, whatever they name.
STAFF = {
    "/workers/",
    "/workers/{worker_name}/pause",
    "/workers/{worker_name}/drain",
    "/workers/{worker_name}/resume",
}


@cache
def routes() -> list[tuple[str, list[str]]]:
    """Each path, with `{name}` for a parameter, and the names. Without the console."""
    return sorted(_walk(get_resolver().url_patterns, "/"))


def _walk(patterns: list[Any], before: str) -> Iterator[tuple[str, list[str]]]:
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            # The console has a login of its own; see tests/console.
            if not str(pattern.pattern).startswith("admin/"):
                yield from _walk(pattern.url_patterns, before + str(pattern.pattern))
        elif isinstance(pattern, URLPattern):
            names = list(pattern.pattern.converters)
            # <str:name> or <name> becomes {name}
            path = re.sub(r"<(?:[^>:]+:)?([^>]+)>", r"{\1}", before + str(pattern.pattern))
            yield path, names


def test_the_lists_name_only_routes_that_exist() -> None:
    assert {path for path, _ in routes()} >= PUBLIC
    assert {name for _, names in routes() for name in names} >= OTHERS_OBJECT.keys()


def test_the_walk_finds_the_routes() -> None:
    found = {path for path, _ in routes()}
    assert {"/auth/me", "/workflows/execute", "/files/{file_id}", "/auth/keys/{key_id}"} <= found


@pytest.mark.django_db(transaction=True)  # asynchronous views work on connections of their own
class TestEveryRoute:
    @pytest.mark.parametrize("path, names", [route for route in routes() if route[0] not in PUBLIC])
    def test_it_is_public_or_refuses_strangers(
        self, stranger: Api, alice: User, path: str, names: list[str]
    ) -> None:
        filled = path.format(**{name: _made(name, alice) for name in names})
        for method in METHODS:
            response = stranger(method, filled)
            # A view that also takes signed links tells anybody which methods it has, and nothing else.
            assert response.status_code in (401, 405) or method == "options", (method, filled)
            if method not in ("head", "options") and not path.startswith(JOBS):
                assert _error_code(response.json()) in ("unauthorized", "method_not_allowed")

    @pytest.mark.parametrize("path, names", [route for route in routes() if set(route[1]) - SHARED])
    def test_objects_of_other_users_are_not_accessible(
        self, as_bob: Api, alice: User, path: str, names: list[str]
    ) -> None:
        filled = path.format(**{name: _made(name, alice) for name in names})
        allowed = as_bob("options", filled)["Allow"].split(", ")
        for method in set(allowed) - {"OPTIONS"}:
            response = as_bob(method, filled, json={} if method in ("POST", "PUT", "PATCH") else None)
            if path.endswith(EMPTY):
                assert response.content in NOTHING
                continue
            assert response.status_code == 404, (method, filled, response.content)

    @pytest.mark.parametrize("path, names", [route for route in routes() if route[1]])
    def test_a_malformed_id_is_404_on_every_route(self, as_bob: Api, path: str, names: list[str]) -> None:
        for nonsense in ("x", "0", "%F0%9F%98%80", "..%2f..", "a" * 300, "'%22;--", "-1", "%C2%A0"):
            filled = path
            for name in names:
                filled = filled.replace(f"{{{name}}}", nonsense)
            response = as_bob.get(filled)
            if path.endswith(EMPTY) and response.status_code == 200:
                assert response.json() in ({}, None)
                continue
            expected = (403, 404, 405) if path in STAFF else (404, 405)
            expected = (400, *expected) if path.endswith(PATHS) else expected
            assert response.status_code in expected, (filled, response.content)


def _error_code(body: Any) -> str:
    """Doors have their own clients' shape: an object with a code or a type."""
    error = body["error"]
    return (error.get("code") or error["type"]) if isinstance(error, dict) else error


def _made(name: str, user: User) -> Any:
    if name in SHARED:
        return "x"
    assert name in OTHERS_OBJECT, f"say in OTHERS_OBJECT how to make a user's {name}"
    return OTHERS_OBJECT[name](user)
