"""MCP at /mcp, with the client of the `mcp` package."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Awaitable, Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import MCPError
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from PIL import Image

from script.harness import graphs
from tests.doors import npm


@pytest.fixture
def person(gpu_worker):
    return gpu_worker.person()


def save_app(person: Any, name: str, workflow: Any, inputs: list[dict[str, Any]]) -> str:
    answer = person.post("/apps/", {"name": name, "workflow": workflow, "inputs": inputs})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["app"])


def colour_app(person: Any) -> str:
    return save_app(person, "colour", graphs.colour(1), [{"name": "color", "node": "1", "input": "color"}])


def ask(person: Any, do: Callable[[Client], Awaitable[Any]]) -> Any:
    async def asked() -> Any:
        headers = {"Authorization": person.session.headers["Authorization"]}
        async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
            transport = streamable_http_client(f"{person.url}/mcp", http_client=http)
            async with Client(transport) as client:
                return await do(client)

    return asyncio.run(asyncio.wait_for(asked(), 90))


def call(person: Any, name: str, **given: Any) -> Any:
    return ask(person, lambda client: client.call_tool(name, given))


def content_of(result: Any) -> Any:
    return json.loads(result.content[0].text)


def test_each_app_is_a_tool_with_its_schema(person, gpu_worker):
    app = colour_app(person)
    tools = {tool.name: tool for tool in ask(person, lambda client: client.list_tools()).tools}
    assert {"list_apps", "describe_app", "run_app", "get_result", "cancel"} < set(tools)
    name = "app_" + app.replace("/", "__")
    assert tools[name].input_schema["properties"]["color"]["type"] == "integer"
    others = ask(gpu_worker.person(), lambda client: client.list_tools()).tools
    assert name not in [tool.name for tool in others]
    assert app in [each["app"] for each in content_of(call(person, "list_apps"))]
    assert content_of(call(person, "describe_app", app=app))["inputs"]["properties"].keys() == {"color"}


def test_a_tool_runs_its_app_and_shows_the_picture(person):
    app = colour_app(person)
    result = call(person, "app_" + app.replace("/", "__"), color=0x00FF00)
    assert not result.is_error
    assert content_of(result)["status"] == "completed"
    [image] = [each for each in result.content if each.type == "image"]
    shown = Image.open(BytesIO(base64.b64decode(image.data))).convert("RGB")
    assert shown.getpixel((1, 1)) == (0, 255, 0)
    again = call(person, "get_result", execution_id=content_of(result)["execution_id"])
    assert [each.type for each in again.content] == ["text", "image"]


def test_a_picture_that_is_too_large_for_a_response_is_shown_as_jpeg(person):
    content = BytesIO()
    Image.frombytes("RGB", (800, 800), os.urandom(800 * 800 * 3)).save(content, "PNG")
    sent = {"file": ("noise.png", content.getvalue(), "image/png")}
    file_id = person.post("/files/upload", files=sent).json()["file_id"]
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": file_id}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "noise"}},
    }
    execution_id = person.execute(graph)
    result = call(person, "get_result", execution_id=execution_id, wait_seconds=60)
    [image] = [each for each in result.content if each.type == "image"]
    assert image.mime_type == "image/jpeg"
    assert Image.open(BytesIO(base64.b64decode(image.data))).size == (800, 800)


def test_a_longer_run_is_polled_and_cancelled(person, gpu_worker):
    app = save_app(person, "slow", graphs.sleep(60), [{"name": "steps", "node": "1", "input": "steps"}])
    started = content_of(call(person, "run_app", app=app, inputs={}, wait_seconds=0))
    id_ = started["execution_id"]
    assert started["status"] in ("pending", "running")
    stranger = call(gpu_worker.person(), "cancel", execution_id=id_)
    assert stranger.is_error
    assert content_of(call(person, "cancel", execution_id=id_))["status"] == "cancelled"
    assert content_of(call(person, "get_result", execution_id=id_, wait_seconds=30))["status"] == "cancelled"


def test_errors_are_reported_to_the_agent(person):
    app = colour_app(person)
    result = call(person, "run_app", app=app, inputs={"colour": 1})
    assert result.is_error
    assert "color" in result.content[0].text


def call_raw(person: Any, arguments: str) -> str:
    """What the tool `run_app` answers to arguments that the `mcp` package would not send."""
    params = f'{{"name": "run_app", "arguments": {arguments}}}'
    body = f'{{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {params}}}'
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    answer = person.session.post(f"{person.url}/mcp", data=body, headers=headers, timeout=30).json()
    assert answer["result"]["isError"]
    return str(answer["result"]["content"][0]["text"])


@pytest.mark.parametrize(
    "value, told",
    [
        ("NaN", "inputs.fps: nan is not a JSON number"),
        ("-Infinity", "inputs.fps: -inf is not a JSON number"),
        ('"a\\u0000"', "inputs.fps: A string has a NUL character"),
        ("18446744073709551616", "inputs.fps: A whole number must fit in 64 bits"),
    ],
)
def test_a_value_that_json_or_the_database_does_not_have_is_named(person, value, told):
    assert told in call_raw(person, f'{{"app": "x", "inputs": {{"fps": {value}}}}}')


def test_arguments_that_are_not_known_and_inputs_of_another_type_are_refused(person):
    app = colour_app(person)
    told = call_raw(person, json.dumps({"app": app, "priority": "high", "wait_second": 1}))
    assert "There is no argument 'priority'" in told
    assert "did you mean 'wait_seconds'?" in told
    assert "must be an object" in call_raw(person, json.dumps({"app": app, "inputs": []}))


def test_strangers_are_refused(person):
    answer = person.session.post(f"{person.url}/mcp", json={}, headers={"Authorization": "Bearer csk_wrong"})
    assert answer.status_code == 401


@pytest.mark.parametrize("piece, depth", [("[],", 0), ("1,", 0), ("", 200)])
def test_a_message_that_is_costly_to_parse_is_refused_before_the_event_loop_parses_it(person, piece, depth):
    before, after = '{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"x": [', "1]}}"
    body = before + piece * 1_000_000 + "[" * depth + "]" * depth + ("," if depth else "") + after
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    answer = person.session.post(f"{person.url}/mcp", data=body, headers=headers, timeout=30)
    assert answer.status_code == 400
    assert "The JSON " in answer.json()["message"]


def refusal(person: Any, uri: str) -> str:
    """The error of reading that resource; raised inside, since the client groups exceptions."""

    async def read(client: Client) -> str:
        with pytest.raises(MCPError) as refused:
            await client.read_resource(uri)
        return refused.value.message

    return str(ask(person, read))


def test_the_resource_of_an_execution_has_its_metadata(person):
    id_ = person.execute(graphs.colour(1), metadata={"order": 7})
    read = ask(person, lambda client: client.read_resource(f"comfyserve://executions/{id_}"))
    [content] = read.contents
    assert json.loads(content.text)["metadata"] == {"order": 7}


def test_results_and_their_files_are_resources(person, gpu_worker):
    app = colour_app(person)
    result = content_of(call(person, "run_app", app=app, inputs={"color": 0x0000FF}))
    uri = result["resource"]
    assert uri == f"comfyserve://executions/{result['execution_id']}"
    listed = ask(person, lambda client: client.list_resources()).resources
    assert [str(each.uri) for each in listed] == [uri]
    templates = ask(person, lambda client: client.list_resource_templates()).resource_templates
    assert {each.name for each in templates} == {"execution", "file"}
    [content] = ask(person, lambda client: client.read_resource(uri)).contents
    assert content.mime_type == "application/json"
    [image] = json.loads(content.text)["outputs"]["images"]
    file = f"comfyserve://files/{image['file_id']}"
    [content] = ask(person, lambda client: client.read_resource(file)).contents
    assert content.mime_type == "image/png"
    shown = Image.open(BytesIO(base64.b64decode(content.blob))).convert("RGB")
    assert shown.getpixel((1, 1)) == (0, 0, 255)
    text = {"file": ("notes.txt", b"Hello", "text/plain")}
    note = person.post("/files/upload", files=text).json()["file_id"]
    [content] = ask(person, lambda client: client.read_resource(f"comfyserve://files/{note}")).contents
    assert content.text == "Hello"
    stranger = gpu_worker.person()
    assert ask(stranger, lambda client: client.list_resources()).resources == []
    for refused in (uri, file, "comfyserve://nothing/1", "file:///etc/passwd"):
        assert refusal(stranger, refused)


def test_a_large_file_is_no_resource(person):
    large = {"file": ("large.txt", b"x" * (8 * 1024 * 1024 + 1), "text/plain")}
    id_ = person.post("/files/upload", files=large).json()["file_id"]
    assert "download it" in refusal(person, f"comfyserve://files/{id_}")


@pytest.fixture(scope="session")
def mcp_remote(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = npm.install("mcp-remote@0.15.1", tmp_path_factory.mktemp("mcp-remote"))
    return folder / "node_modules" / "mcp-remote" / "dist" / "proxy.js"


@pytest.mark.timeout(400)  # it installs the client
def test_clients_that_only_start_programs_use_npms_mcp_remote(person, mcp_remote):
    """As docs/integrations.md configures Claude Desktop."""
    app = colour_app(person)
    key = person.post("/auth/keys", {"name": "desktop"}).json()["key"]
    header = f"Authorization:Bearer {key}"
    server = StdioServerParameters(
        command="node",
        args=[str(mcp_remote), f"{person.url}/mcp", "--header", header, "--transport", "http-only"],
        env={**os.environ, "MCP_REMOTE_CONFIG_DIR": str(mcp_remote.parent / "state")},
    )

    async def asked() -> Any:
        async with Client(stdio_client(server)) as client:
            return await client.call_tool("run_app", {"app": app, "inputs": {"color": 0xFF0000}})

    result = asyncio.run(asyncio.wait_for(asked(), 120))
    assert content_of(result)["status"] == "completed"
