"""Submits an execution through each of the APIs. Each function returns the ids of the executions it made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from doors.mcp import tools as mcp_tools
from doors.mcp import views as mcp_views
from script.harness import graphs
from tests.factories import Api
from workflows.models import Execution


def by_batch(api: Api, priority: str) -> list[str]:
    body = {"workflow": graphs.colour(1), "grid": {"1.color": [1, 2, 3]}, "priority": priority}
    batch = api.post("/workflows/batch", body).json()["batch_id"]
    return [str(id_) for id_ in Execution.objects.filter(batch=batch).values_list("id", flat=True)]


def by_comfyuis_route(api: Api, _priority: str) -> list[str]:
    answer = api.post("/comfyui/prompt", {"prompt": graphs.colour(1)})
    assert answer.status_code == 200, answer.content
    return [str(answer.json()["prompt_id"])]


def by_comfy_v2(api: Api, _priority: str) -> list[str]:
    answer = api.post("/api/v2/jobs", {"workflow": graphs.colour(1)})
    assert answer.status_code == 201, answer.content
    return [str(answer.json()["id"])]


def app_of(api: Api) -> str:
    """The address of the app that is run through APIs that only run apps; created on first use."""
    inputs = [
        {"name": "prompt", "node": "3", "input": "source", "type": "text"},
        {"name": "color", "node": "1", "input": "color"},
    ]
    workflow = {**graphs.colour(1), "3": {"class_type": "PreviewAny", "inputs": {"source": "x"}}}
    known = api.get("/apps/").json()
    if known:
        return str(known[0]["app"])
    made = api.post("/apps/", {"name": "paint", "workflow": workflow, "inputs": inputs})
    assert made.status_code == 201, made.content
    return str(made.json()["app"])


def by_openai_images(api: Api, _priority: str) -> list[str]:
    body = {"model": app_of(api), "prompt": "x", "n": 2}
    return new_of(lambda: api.post("/v1/images/generations", body))


def by_openai_videos(api: Api, _priority: str) -> list[str]:
    return new_of(lambda: api.post("/v1/videos", {"model": app_of(api), "prompt": "x"}))


def new_of(post: Callable[[], Any]) -> list[str]:
    """The executions that a request made. Its response, sent after their end, does not name them."""
    before = set(Execution.objects.values_list("id", flat=True))
    answer = post()
    assert answer.status_code == 200, answer.content
    return [str(id_) for id_ in Execution.objects.exclude(id__in=before).values_list("id", flat=True)]


def by_mcp(api: Api, _priority: str) -> list[str]:
    """As its server does: Django finds the caller, then a thread runs the tool."""
    caller = mcp_views.caller_of(api.post("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}))
    assert caller is not None
    return [str(mcp_tools.run_app(caller, app_of(api), {}))]


WAYS = {
    "batch": by_batch,
    "comfyui": by_comfyuis_route,
    "comfy_v2": by_comfy_v2,
    "openai images": by_openai_images,
    "openai videos": by_openai_videos,
    "mcp": by_mcp,
}
OF_NORMAL = WAYS.keys() - {"batch"}  # APIs that give every execution this priority
