"""The OpenAPI schema for the caller: each app that they may run is an operation of its own."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from rest_framework.request import Request

from accounts import authentication
from accounts.models import User
from comfyserve.api import docs

from . import catalog, parameters
from .catalog import Found
from .models import App

MAX_APPS = 200  # apps, the newest
TEMPLATE = "/apps/{app}/run"


class SchemaView(docs.SchemaView):
    """With a bearer token, the schema includes typed operations of the caller's apps; without, it is
    public.
    """

    def schema_for(self, request: Request) -> dict[str, Any] | None:
        identity = authentication.identify(request._request)
        if identity is None:
            return None
        schema = docs.schema()
        return {**schema, "paths": {**schema["paths"], **paths_of(identity.user)}}


def paths_of(user: User) -> dict[str, Any]:
    """By path; two queries."""
    apps = list(catalog.visible_to(user).order_by("-created_at", "-id")[:MAX_APPS])
    versions = catalog.newest(apps)
    return {
        f"/apps/{quote(app.address)}/run": {"post": _operation(Found(app, versions[app.id]))}
        for app in apps
        if app.id in versions
    }


def _operation(found: Found) -> dict[str, Any]:
    """The operation of any app, with the inputs of this one."""
    usual = docs.schema()["paths"][TEMPLATE]["post"]
    inputs = parameters.schema_of(found.inputs, found.version.prompt)
    body: dict[str, Any] = {
        "allOf": [
            {"$ref": "#/components/schemas/RunRequest"},
            {"type": "object", "properties": {"inputs": inputs}, "required": _required(inputs)},
        ]
    }
    return {
        **usual,
        "operationId": _operation_id(found.app),
        "summary": found.app.title,
        "description": found.app.description,
        "tags": ["my apps"],
        "parameters": [each for each in usual.get("parameters", []) if each.get("in") != "path"],
        "requestBody": {"content": {"application/json": {"schema": body}}, "required": True},
    }


def _required(inputs: dict[str, Any]) -> list[str]:
    return ["inputs"] if inputs["required"] else []


def _operation_id(app: App) -> str:
    """Made unique: two addresses may normalise to the same id."""
    return f"run_{re.sub(r'[^A-Za-z0-9]+', '_', app.address)}_{app.pk}"
