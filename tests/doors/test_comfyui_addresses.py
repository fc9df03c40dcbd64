"""ComfyUI's routes at each of their addresses, and the errors of every door in the door's own shape."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import requests

from script.harness import graphs
from script.harness.relay import Proxy
from script.harness.stack import Stack
from script.harness.waiting import wait_for

HOST = "gpu.example.com"
LARGEST = 64 * 1024  # bytes of a body
ADDRESSES = ("/comfyui", "/comfyui/api", "/c", "/c/api", "host", "host/api")


@dataclass(frozen=True)
class Client:
    """A client with an address of ComfyUI's routes and a key of its user."""

    url: str
    headers: dict[str, str]

    def get(self, path: str, **query: Any) -> requests.Response:
        return requests.get(self.url + path, headers=self.headers, params=query, timeout=30)

    def post(self, path: str, body: Any = None) -> requests.Response:
        return requests.post(self.url + path, headers=self.headers, json=body, timeout=30)


@pytest.fixture(scope="module")
def postgresql(_stack: Stack) -> Iterator[Proxy]:
    with Proxy(_stack.database_url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def web(_stack: Stack, postgresql: Proxy) -> Iterator[Stack]:
    """The web process with a host name for the routes, a low limit of bodies, and a database to cut off."""
    parts = urlsplit(_stack.database_url)
    here = parts.netloc.rpartition("@")[0] + f"@127.0.0.1:{postgresql.port}"
    env = {
        "DATABASE_URL": urlunsplit(parts._replace(netloc=here)),
        "COMFYUI_DOOR_HOSTS": HOST,
        "MAX_BODY_BYTES": str(LARGEST),
        "MAX_UPLOAD_BYTES": str(LARGEST),
    }
    _stack.start_web(env=env)
    yield _stack
    _stack.stop_web()


@pytest.fixture
def stack_with_addresses(web: Stack, bare_stack: Stack) -> Stack:
    return bare_stack


def client_of(stack: Stack, address: str) -> Client:
    person = stack.person()
    scope = "comfyui" if address in ("/c", "/c/api") else "all"
    key = person.post("/auth/keys", {"name": "a", "scope": scope}).json()["key"]
    return with_key(stack.url, address, key)


def with_key(url: str, address: str, key: str) -> Client:
    api = "/api" if address.endswith("/api") else ""
    start = address.removesuffix("/api")
    bearer = {"Authorization": f"Bearer {key}"}
    if start == "/c":
        return Client(f"{url}/c/{key}{api}", {})
    if start == "host":
        return Client(f"{url}{api}", {**bearer, "Host": HOST})
    return Client(f"{url}{start}{api}", bearer)


@pytest.fixture(params=ADDRESSES)
def client(request: pytest.FixtureRequest, stack_with_addresses: Stack) -> Client:
    return client_of(stack_with_addresses, request.param)


# -- every route -----------------------------------------------------------------------------------------
def submit(client: Client, number: int) -> str:
    answer = client.post("/prompt", {"prompt": graphs.colour(number), "prompt_id": str(uuid.uuid4())})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["prompt_id"])


def pending(client: Client) -> list[str]:
    return [item[1] for item in client.get("/queue").json()["queue_pending"]]


def test_the_queue_and_the_history(client: Client):
    ids = [submit(client, number) for number in range(4)]
    assert pending(client) == ids
    assert client.get("/prompt").json() == {"exec_info": {"queue_remaining": 4}}
    assert client.post("/interrupt", {}).status_code == 200
    assert client.post("/interrupt").status_code == 200  # as ComfyUI's front end sends it
    assert client.post("/interrupt", {"prompt_id": ids[0]}).status_code == 200
    assert pending(client) == ids  # none of them runs
    assert client.post("/queue", {"delete": [ids[0]]}).status_code == 200
    assert pending(client) == ids[1:]
    assert client.post("/queue", {"clear": True}).status_code == 200
    assert client.get("/queue").json() == {"queue_running": [], "queue_pending": []}
    assert list(client.get("/history").json()) == ids
    assert list(client.get(f"/history/{ids[1]}").json()) == [ids[1]]
    assert list(client.get("/history", max_items=2).json()) == ids[2:]
    assert client.post("/history", {"delete": [ids[0]]}).status_code == 200
    assert list(client.get("/history").json()) == ids[1:]
    assert client.post("/history", {"clear": True}).status_code == 200
    assert client.get("/history").json() == {}


def test_the_jobs(client: Client):
    job = submit(client, 1)
    assert [each["id"] for each in client.get("/jobs").json()["jobs"]] == [job]
    assert client.get(f"/jobs/{job}").json()["status"] == "pending"
    assert client.post(f"/jobs/{job}/cancel").json() == {"cancelled": True}
    assert client.post("/jobs/cancel", {"job_ids": [job]}).json() == {"cancelled": False}


def test_an_empty_fleet(client: Client):
    """No worker is up here: each is answered as by a ComfyUI that has nothing."""
    assert client.post("/free", {"unload_models": True, "free_memory": True}).status_code == 200
    assert client.get("/extensions").json() == []
    assert client.get("/embeddings").json() == []
    folders = client.get("/models").json()
    assert {"checkpoints", "loras", "embeddings"} <= set(folders)
    for folder in folders:
        assert isinstance(client.get(f"/models/{folder}").json(), list)
        assert isinstance(client.get(f"/experiment/models/{folder}").json(), list)
    assert {each["name"] for each in client.get("/experiment/models").json()} == set(folders)
    assert client.get("/features").json()["max_upload_size"] == LARGEST
    stats = client.get("/system_stats").json()
    assert {"os", "comfyui_version", "python_version", "argv"} <= stats["system"].keys()
    assert {"name", "type", "index", "vram_total", "vram_free"} <= stats["devices"][0].keys()
    assert isinstance(client.get("/object_info").json(), dict)
    assert client.get("/object_info/NoSuchNode").json() == {}
    for empty in ("/workflow_templates", "/global_subgraphs", "/i18n"):
        assert client.get(empty).json() == {}


def test_the_settings_and_the_user_data(client: Client):
    assert client.get("/users").json()["storage"] == "server"
    assert client.post("/settings", {"a": 1}).status_code == 200
    assert client.post("/settings/b", "two").status_code == 200
    assert client.get("/settings").json() == {"a": 1, "b": "two"}
    assert client.post("/userdata/workflows%2Fx.json", {"nodes": []}).status_code == 200
    assert client.get("/userdata", dir="workflows").json() == ["x.json"]
    assert client.get("/v2/userdata?path=workflows").json()[0]["path"] == "workflows/x.json"


def test_an_uploaded_file_can_be_downloaded(client: Client):
    for route in ("/upload/image", "/upload/mask"):
        answer = requests.post(
            client.url + route, headers=client.headers, files={"image": ("a.txt", b"a text")}, timeout=30
        )
        assert answer.status_code == (200 if route == "/upload/image" else 400), answer.text
        if answer.ok:
            name = answer.json()["name"]
    assert client.get("/view", filename=name, type="input").content == b"a text"


# -- errors ----------------------------------------------------------------------------------------------
def of_comfyui(answer: requests.Response) -> str:
    error = answer.json()["error"]
    assert {"type", "message", "details", "extra_info"} == error.keys()
    assert answer.json()["node_errors"] == {}
    assert error["message"]
    return str(error["type"])


def of_openai(answer: requests.Response) -> str:
    error = answer.json()["error"]
    assert {"message", "type", "param", "code"} == error.keys()
    assert error["message"]
    return str(error["type"])


def of_comfy(answer: requests.Response) -> str:
    error = answer.json()["error"]
    assert error.keys() - {"details"} == {"code", "message"}
    assert error["message"]
    return str(error["code"])


@dataclass(frozen=True)
class Door:
    """A door's address, a body that it accepts, and its shape of errors."""

    address: str
    route: str
    body: dict[str, Any]
    shape: Callable[[requests.Response], str]
    read: str = "/models"  # a route to GET


GRAPH = graphs.colour(1)
DOORS = {
    **{address: Door(address, "/prompt", {"prompt": GRAPH}, of_comfyui) for address in ADDRESSES},
    "openai images": Door("/v1", "/images/generations", {"model": "a/b", "prompt": "x"}, of_openai),
    "openai videos": Door("/v1", "/videos", {"model": "a/b", "prompt": "x"}, of_openai),
    "comfy api": Door("/api/v2", "/jobs", {"workflow": GRAPH}, of_comfy, read="/jobs"),
}


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Door:
    return DOORS[request.param]


def at(door: Door, stack: Stack, *, key: str | None = None) -> Client:
    return with_key(stack.url, door.address, key) if key else client_of(stack, door.address)


def test_without_a_good_key_it_is_401(door: Door, stack_with_addresses: Stack):
    answer = at(door, stack_with_addresses, key=f"csk_{'x' * 40}").post(door.route, door.body)
    assert answer.status_code == 401
    assert door.shape(answer)
    assert answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize("name", ["/c", "/c/api", "openai images", "openai videos", "comfy api"])
def test_a_key_of_another_kind_is_refused(name: str, stack_with_addresses: Stack):
    """One of the scope `comfyui` at the other doors, and any other in an address. ComfyUI's routes take each
    kind as a header."""
    person, door = stack_with_addresses.person(), DOORS[name]
    in_path = name.startswith("/c")
    scope = "all" if in_path else "comfyui"
    key = person.post("/auth/keys", {"name": "b", "scope": scope}).json()["key"]
    answer = at(door, stack_with_addresses, key=key).post(door.route, door.body)
    assert answer.status_code == (401 if in_path else 403)
    assert door.shape(answer)


def test_an_unknown_route_is_404(door: Door, stack_with_addresses: Stack):
    answer = at(door, stack_with_addresses).get("/nothing/here")
    assert answer.status_code == 404
    assert door.shape(answer)


def test_a_method_that_is_none_is_405(door: Door, stack_with_addresses: Stack):
    client = at(door, stack_with_addresses)
    answer = requests.delete(client.url + door.route, headers=client.headers, timeout=30)
    assert answer.status_code == 405
    assert door.shape(answer)


def test_a_body_that_is_too_large_is_413(door: Door, stack_with_addresses: Stack):
    answer = at(door, stack_with_addresses).post(door.route, {**door.body, "more": "x" * LARGEST * 2})
    assert answer.status_code == 413
    assert door.shape(answer)


def test_a_body_that_is_no_json_is_400(door: Door, stack_with_addresses: Stack):
    client = at(door, stack_with_addresses)
    headers = {**client.headers, "Content-Type": "application/json"}
    answer = requests.post(client.url + door.route, data=b"{", headers=headers, timeout=30)
    assert answer.status_code in (400, 422)
    assert door.shape(answer)


def test_too_many_requests_are_429(door: Door, stack_with_addresses: Stack):
    client = at(door, stack_with_addresses)
    stack_with_addresses.sql(
        "INSERT INTO accounts_userlimits (user_id, rate_limits, highest_priority)"
        " SELECT id, '1/d', '' FROM accounts_user ORDER BY id DESC LIMIT 1"
    )
    answers = [client.get(door.read) for _ in range(3)]
    assert answers[-1].status_code == 429
    assert door.shape(answers[-1])
    assert int(answers[-1].headers["Retry-After"]) > 0


def test_without_the_database_it_is_503(door: Door, stack_with_addresses: Stack, postgresql: Proxy):
    client = at(door, stack_with_addresses)
    postgresql.cut()
    try:
        answer = client.post(door.route, door.body)
    finally:
        postgresql.mend()
    assert answer.status_code == 503, answer.text
    assert door.shape(answer)
    assert int(answer.headers["Retry-After"]) > 0
    wait_for(lambda: client.get(door.read).ok or None, seconds=60, what="the database")


def test_an_upload_that_is_too_large_is_413(client: Client):
    files = {"image": ("a.bin", b"x" * (LARGEST + 1))}
    answer = requests.post(f"{client.url}/upload/image", headers=client.headers, files=files, timeout=30)
    assert (answer.status_code, of_comfyui(answer)) == (413, "payload_too_large")
    assert json.loads(answer.text)
