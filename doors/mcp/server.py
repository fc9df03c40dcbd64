"""The tools as the `mcp` package expects them: a fixed set, and one for each app that the caller may run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

import mcp_types as types
from asgiref.sync import sync_to_async
from django.conf import settings
from mcp import MCPError
from mcp.server import Server, ServerRequestContext

from comfyserve.api import parsers, validation
from comfyserve.api.errors import ApiError, Detail, ValidationFailed, as_api_error
from comfyserve.api.rendering import rendered
from comfyserve.db import connections
from workflows.streaming.asgi import Streams

from . import resources, tools
from .views import CALLER, Caller

T = TypeVar("T")
Context = ServerRequestContext[dict[str, Any], Any]
DEFAULT_WAIT = 60
INSTRUCTIONS = (
    "Runs apps: ComfyUI workflows with typed inputs. Tools named app_… run one app each; run_app runs any. "
    "A run that has not ended in time returns its execution_id: call get_result with it later."
)
_TEXT = {"type": "string"}
_WAIT = {"type": "integer", "minimum": 0, "description": "Seconds to wait for the result"}
FIXED: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "list_apps": ("The apps that you may run", {}, []),
    "describe_app": ("The inputs of an app as JSON Schema, and its outputs", {"app": _TEXT}, ["app"]),
    "run_app": (
        "Run an app and wait for its result",
        {"app": _TEXT, "inputs": {"type": "object"}, "wait_seconds": _WAIT},
        ["app"],
    ),
    "get_result": (
        "State and result of an execution; images are included",
        {"execution_id": _TEXT, "wait_seconds": _WAIT},
        ["execution_id"],
    ),
    "cancel": ("Cancel an execution", {"execution_id": _TEXT}, ["execution_id"]),
}


class Tools:
    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def server(self) -> Server[dict[str, Any]]:
        return Server(
            "comfyserve",
            instructions=INSTRUCTIONS,
            on_list_tools=self._list,
            on_call_tool=self._call,
            on_list_resources=_list_resources,
            on_list_resource_templates=_list_templates,
            on_read_resource=_read_resource,
        )

    async def _list(
        self,
        context: Context,
        params: types.PaginatedRequestParams | None,  # noqa: ARG002
    ) -> types.ListToolsResult:
        fixed = [
            types.Tool(
                name=name,
                description=description,
                input_schema={"type": "object", "properties": properties, "required": required},
            )
            for name, (description, properties, required) in FIXED.items()
        ]
        of_apps = await _in_thread(tools.app_tools, _caller(context))
        return types.ListToolsResult(tools=[*fixed, *(types.Tool(**each) for each in of_apps)])

    async def _call(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        """Errors are returned to the agent, which can correct its call."""
        try:
            given = params.arguments or {}
            parsers.check(given)
            _reject_unknown(params.name, given)
            return await self._dispatch(_caller(context), params.name, given)
        except Exception as exc:
            known = as_api_error(exc)
            if known is None:
                raise
            return _error_result(known)

    async def _dispatch(self, caller: Caller, name: str, given: dict[str, Any]) -> types.CallToolResult:
        if name == "list_apps":
            return _as_json(await _in_thread(tools.list_apps, caller))
        if name == "describe_app":
            return _as_json(await _in_thread(tools.describe_app, caller, _text(given, "app")))
        if name == "cancel":
            return _as_json(await _in_thread(tools.cancel, caller, _text(given, "execution_id")))
        if name == "get_result":
            seconds = _wait(given, 0)
            found = await _in_thread(tools.execution_id, caller, _text(given, "execution_id"))
            return await self._result(caller, found, seconds)
        if name == "run_app":
            seconds, inputs = _wait(given, DEFAULT_WAIT), given.get("inputs")
            inputs = {} if inputs is None else inputs
            started = await _in_thread(tools.run_app, caller, _text(given, "app"), inputs)
            return await self._result(caller, started, seconds)
        started = await _in_thread(tools.run_app_tool, caller, name, given)
        return await self._result(caller, started, min(DEFAULT_WAIT, settings.MAX_WAIT_SECONDS))

    async def _result(self, caller: Caller, execution_id: UUID, seconds: int) -> types.CallToolResult:
        if seconds:
            await self._streams.wait_for_end(execution_id, seconds, credential=caller.credential)
        await caller.turn.begin()
        shown, pictures = await _in_thread(tools.result, caller, execution_id)
        content: list[types.ContentBlock] = [types.TextContent(text=rendered(shown).decode())]
        content += [types.ImageContent(data=data, mime_type=kind) for data, kind in pictures]
        return types.CallToolResult(content=content, is_error=shown["status"] == "failed")


async def _list_resources(
    context: Context,
    params: types.PaginatedRequestParams | None,  # noqa: ARG001
) -> types.ListResourcesResult:
    found = await _in_thread(resources.listed, _caller(context))
    return types.ListResourcesResult(resources=[types.Resource(**each) for each in found])


async def _list_templates(
    context: Context,  # noqa: ARG001
    params: types.PaginatedRequestParams | None,  # noqa: ARG001
) -> types.ListResourceTemplatesResult:
    found = [types.ResourceTemplate(**each) for each in resources.TEMPLATES]
    return types.ListResourceTemplatesResult(resource_templates=found)


async def _read_resource(
    context: Context, params: types.ReadResourceRequestParams
) -> types.ReadResourceResult:
    uri, caller = str(params.uri), _caller(context)
    await caller.turn.begin()
    try:
        found = await _in_thread(resources.read, caller, uri)
    except Exception as exc:
        known = as_api_error(exc)
        if known is None:
            raise
        code = types.INVALID_PARAMS if known.status < 500 else types.INTERNAL_ERROR
        raise MCPError(code=code, message=known.message, data={"uri": uri}) from exc
    shown: types.TextResourceContents | types.BlobResourceContents
    if found.text is not None:
        shown = types.TextResourceContents(uri=uri, mime_type=found.content_type, text=found.text)
    else:
        shown = types.BlobResourceContents(uri=uri, mime_type=found.content_type, blob=found.blob or "")
    return types.ReadResourceResult(contents=[shown])


def _caller(context: Context) -> Caller:
    assert context.request is not None  # noqa: S101  (there is no other transport)
    found: Caller = context.request.scope[CALLER]
    return found


async def _in_thread(do: Callable[..., T], *given: object) -> T:
    """One database step; its connection is released immediately."""

    def step() -> T:
        try:
            return do(*given)
        finally:
            connections.release()

    return await sync_to_async(step, thread_sensitive=False)()


def _reject_unknown(name: str, given: dict[str, Any]) -> None:
    """An app's own tool has the app's inputs, which are checked where it is run."""
    known = FIXED[name][1] if name in FIXED else given
    if mistakes := validation.unknown(given, known, what="argument", also_called={}):
        raise ValidationFailed(mistakes)


def _text(given: dict[str, Any], name: str) -> str:
    if not isinstance(given.get(name), str):
        raise ValidationFailed.of(name, f"'{name}' must be a string", "INVALID_TYPE")
    return str(given[name])


def _wait(given: dict[str, Any], default: int) -> int:
    seconds = given.get("wait_seconds", default)
    if not isinstance(seconds, int) or isinstance(seconds, bool) or seconds < 0:
        raise ValidationFailed.of("wait_seconds", "'wait_seconds' must be a whole number of seconds")
    return min(seconds, int(settings.MAX_WAIT_SECONDS))


def _as_json(shown: Any) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=rendered(shown).decode())])


def _error_result(known: ApiError) -> types.CallToolResult:
    message = "; ".join(map(_sentence, known.details[:10])) or known.message
    return types.CallToolResult(content=[types.TextContent(text=message)], is_error=True)


def _sentence(detail: Detail) -> str:
    """With its field, unless the message names it."""
    is_named = not detail.field or detail.field.rpartition(".")[2] in detail.message
    return detail.message if is_named else f"{detail.field}: {detail.message}"
