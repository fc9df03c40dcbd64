"""Limits of an account hold at every door: which protocol a run comes by makes no difference."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from accounts.models import UserLimits
from apps_catalog.models import AppVersion
from script.harness import graphs
from tests.factories import Api, make_user
from workflows.models import Execution

pytestmark = pytest.mark.django_db(transaction=True)

INPUTS = [{"name": "prompt", "node": "2", "input": "filename_prefix"}]
Door = Callable[[Api, str], Any]


def batch(api: Api, app: str) -> Any:
    return api.post("/workflows/batch", {"workflow": graphs.colour(1), "grid": {"1.color": [1, 2, 3]}})


def app_batch(api: Api, app: str) -> Any:
    return api.post(f"/apps/{app}/batch", {"inputs": [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}]})


DOORS: dict[str, Door] = {
    "execute": lambda api, app: api.post("/workflows/execute", {"workflow": graphs.colour(1)}),
    "batch": batch,
    "app": lambda api, app: api.post(f"/apps/{app}/run", {"inputs": {"prompt": "a"}}),
    "app batch": app_batch,
    "ComfyUI": lambda api, app: api.post("/comfyui/prompt", {"prompt": graphs.colour(1)}),
    "ComfyUI below /api": lambda api, app: api.post("/comfyui/api/prompt", {"prompt": graphs.colour(1)}),
    "Comfy API": lambda api, app: api.post("/api/v2/jobs", {"workflow": graphs.colour(1)}),
    "Comfy API, app": lambda api, app: api.post("/api/v2/jobs", {"workflow": app, "inputs": {"prompt": "a"}}),
    "OpenAI images": lambda api, app: api.post("/v1/images/generations", {"model": app, "prompt": "a"}),
    "OpenAI several": lambda api, app: api.post(
        "/v1/images/generations", {"model": app, "prompt": "a", "n": 3}
    ),
    "OpenAI videos": lambda api, app: api.post("/v1/videos", {"model": app, "prompt": "a"}),
}


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Door:
    return DOORS[request.param]


def account(name: str, **limits: Any) -> tuple[Api, str]:
    """(client, the address of an app) of a user with these limits."""
    user = make_user(name)
    UserLimits.objects.create(user=user, **limits)
    api = Api.of(user)
    made = api.post("/apps/", {"name": "limits", "workflow": graphs.colour(1), "inputs": INPUTS})
    assert made.status_code == 201, made.content
    return api, made.json()["app"]


@pytest.mark.parametrize("limit", ["executions_waiting", "executions_per_day"])
def test_no_more_executions_than_the_quota(door: Door, limit: str) -> None:
    api, app = account("limited", **{limit: 2})
    answers = [door(api, app) for _ in range(3)]
    assert answers[-1].status_code == 429, answers[-1].content
    assert Execution.objects.count() <= 2


def test_no_higher_priority_than_the_users(door: Door) -> None:
    api, app = account("low", highest_priority="low")
    answer = door(api, app)
    assert answer.status_code in (200, 201), answer.content
    assert set(Execution.objects.values_list("priority", flat=True)) == {"low"}


def test_no_more_running_at_once_than_the_quota(door: Door) -> None:
    """The others are held, whichever way they came."""
    api, app = account("one", executions_running=1)
    for _ in range(2):
        door(api, app)
    assert Execution.objects.filter(held=None).count() == 1
    assert Execution.objects.filter(held="quota").count() >= 1


@pytest.mark.parametrize(
    "path, body",
    [
        ("/workflows/execute", {}),
        ("/workflows/batch", {"grid": {"1.color": [1]}}),
        ("/workflows/validate", {}),
    ],
)
def test_no_longer_time_limit_than_the_operators(path: str, body: dict[str, Any]) -> None:
    asked = {"workflow": graphs.colour(1), "timeout_minutes": 24 * 60 + 1, **body}
    answer = Api.of(make_user("patient")).post(path, asked)
    assert answer.status_code == 400
    assert b"timeout_minutes" in answer.content
    assert not Execution.objects.exists()


def test_every_door_has_a_time_limit(door: Door, settings: Any) -> None:
    settings.DEFAULT_TIMEOUT_MINUTES = 7
    api, app = account("timed")
    door(api, app)
    assert set(Execution.objects.values_list("timeout_minutes", flat=True)) == {7}


def test_apps_count_towards_the_storage_quota() -> None:
    """Each version of each: they could be made without end otherwise."""
    api, app = account("collector", storage_bytes=150_000)
    big = graphs.colour(1) | {"9": {"class_type": "PreviewAny", "inputs": {"source": "x" * 60_000}}}
    for _ in range(2):  # it compresses well, so that there is room after it
        assert api("PATCH", f"/apps/{app}", json={"workflow": big, "inputs": []}).status_code == 200
    random = graphs.colour(1) | {
        "9": {"class_type": "PreviewAny", "inputs": {"source": os.urandom(40_000).hex()}}
    }
    assert api.post("/apps/", {"name": "other", "workflow": random, "inputs": []}).status_code == 429
    assert api("PATCH", f"/apps/{app}", json={"workflow": random, "inputs": []}).status_code == 429
    assert AppVersion.objects.count() == 3
