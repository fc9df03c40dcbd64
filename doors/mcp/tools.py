"""What the tools do. Each function runs in a thread and returns plain values."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from apps_catalog import catalog, representations, running
from comfyserve.api.errors import NotFound, ValidationFailed
from files import converted, storing
from files.conversion import ConversionOptions
from files.models import ConvertedFile, File
from workflows.models import Output
from workflows.presentation import representations as executions
from workflows.presentation import selectors
from workflows.queue import commands

from . import resources
from .views import Caller

MAX_APPS = 100  # the newest; agents cannot make use of more tools
MAX_PICTURES = 4  # per response; all images have a URL, too
LARGEST_PICTURE = 1024 * 1024  # bytes; of larger images a JPEG is sent
SMALLER = ConversionOptions(format="jpeg", quality=85)
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")


def _apps(caller: Caller) -> list[catalog.Found]:
    rows = list(catalog.visible_to(caller.user).order_by("-created_at", "-id")[:MAX_APPS])
    versions = catalog.newest(rows)
    return [catalog.Found(row, versions[row.id]) for row in rows if row.id in versions]


def tool_name(address: str) -> str:
    """The tool name of an app: agents accept letters, digits, '_' and '-' only."""
    return "app_" + NOT_IN_NAMES.sub("_", address.replace("/", "__"))[:60]


def app_tools(caller: Caller) -> list[dict[str, Any]]:
    """Name, title, description and input schema of each. If two names collide, the newer app keeps it."""
    found: dict[str, dict[str, Any]] = {}
    for app in _apps(caller):
        name = tool_name(app.app.address)
        schema = representations.schema(app, user=caller.user)["inputs"]
        about = app.app.description or app.app.title
        described = {"name": name, "title": app.app.title, "description": about, "input_schema": schema}
        found.setdefault(name, described)
    return list(found.values())


def list_apps(caller: Caller) -> list[dict[str, Any]]:
    return [
        {"app": each.app.address, "title": each.app.title, "description": each.app.description}
        for each in _apps(caller)
    ]


def describe_app(caller: Caller, app: str) -> dict[str, Any]:
    found = catalog.find(user=caller.user, address=app)
    about = {"title": found.app.title, "description": found.app.description}
    return {**about, **representations.schema(found, user=caller.user)}


def run_app(caller: Caller, app: str, inputs: Mapping[str, Any]) -> UUID:
    return running.run(user=caller.user, app=app, inputs=inputs).accepted.execution.id


def run_app_tool(caller: Caller, name: str, inputs: Mapping[str, Any]) -> UUID:
    """The app, by its tool's name."""
    for each in _apps(caller):
        if tool_name(each.app.address) == name:
            return run_app(caller, each.app.address, inputs)
    raise NotFound(f"There is no tool {name[:100]}")


def execution_id(caller: Caller, given: str) -> UUID:
    """Raises NotFound unless it belongs to the caller."""
    return selectors.execution_of(user=caller.user, execution_id=given).id


def cancel(caller: Caller, given: str) -> dict[str, Any]:
    execution = selectors.execution_of(user=caller.user, execution_id=given)
    commands.cancel(execution=execution)
    return {"execution_id": execution.id, "status": "cancelled"}


def result(caller: Caller, id_: UUID) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The result as text, and the images as base64 with their types."""
    found = selectors.whole_of(user=caller.user, execution_id=str(id_))
    whole = executions.result_of(found, base=caller.base)
    kept = ("execution_id", "status", "error", "outputs", "named_outputs", "warnings", "app", "version")
    shown = {name: whole[name] for name in kept if whole.get(name)}
    return {**shown, "resource": resources.uri_of_execution(id_)}, _pictures(found.outputs)


def _pictures(outputs: list[Output]) -> list[tuple[str, str]]:
    files = [
        output.file
        for output in outputs
        if output.file is not None and output.file.content_type.startswith("image/")
    ]
    shown = (_shown(file) for file in files[:MAX_PICTURES])
    return [each for each in shown if each is not None]


def _shown(file: File) -> tuple[str, str] | None:
    """(base64, its type), in a size that fits a response. None where that cannot be made."""
    shown: File | ConvertedFile = file
    if file.size > LARGEST_PICTURE:
        try:
            shown = converted.of(file, SMALLER)
        except ValidationFailed:
            return None
    with storing.opened(shown) as reader:
        return base64.b64encode(reader.read(shown.size)).decode(), shown.content_type
