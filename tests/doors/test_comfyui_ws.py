"""ComfyUI's websocket at /comfyui/ws, beside a real ComfyUI's own for the same prompt."""

from __future__ import annotations

import io
import json
import random
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import pytest
import requests
import websocket
from PIL import Image

from comfyui.events import PREVIEW, PREVIEW_WITH_METADATA
from script.harness import graphs
from script.harness.stack import Person, Stack
from script.harness.waiting import wait_for


@pytest.fixture
def person(gpu_worker: Any) -> Person:
    return gpu_worker.person()


def anything() -> int:
    return random.randrange(2**32)


def connect(url: str, client_id: str, *, token: str | None = None, path: str = "/ws") -> websocket.WebSocket:
    header = {"Authorization": token} if token else {}
    address = url.replace("http://", "ws://", 1) + f"{path}?clientId={client_id}"
    return websocket.create_connection(address, timeout=30, header=header)


@contextmanager
def opened(socket: websocket.WebSocket) -> Iterator[websocket.WebSocket]:
    """Its `close` leaves the connection open where the other side has closed it already."""
    try:
        yield socket
    finally:
        socket.shutdown()


def of(person: Person, client_id: str, path: str = "/comfyui/ws") -> websocket.WebSocket:
    token = str(person.session.headers["Authorization"])
    return connect(person.url, client_id, token=token, path=path)


def until_end(socket: websocket.WebSocket, prompt_id: str) -> Iterator[Any]:
    """Messages up to `executing` with node null of that prompt; bytes for binary ones."""
    while True:
        got = socket.recv()
        message = got if isinstance(got, bytes) else json.loads(got)
        yield message
        if not isinstance(message, dict) or message["type"] != "executing":
            continue
        if message["data"]["node"] is None and message["data"]["prompt_id"] == prompt_id:
            return


def shape(messages: list[Any]) -> list[Any]:
    """What happens in which order. How often progress is told depends on the machine, and `status` comes to
    every websocket of a ComfyUI, which others use too."""
    seen = []
    for message in messages:
        if isinstance(message, bytes) or message["type"] in ("progress_state", "status"):
            continue
        data = message["data"]
        seen.append((message["type"], data.get("node", data.get("nodes")), tuple(sorted(data))))
    return [key for key, _ in groupby(seen)]


def test_the_messages_are_those_of_comfyui(gpu_worker, comfyui, person):
    client_id = uuid.uuid4().hex
    told = []
    for url, post, socket in (
        (person.url, person.session.post, of(person, client_id)),
        (comfyui.url, requests.post, connect(comfyui.url, client_id)),
    ):
        with opened(socket):
            hello = json.loads(socket.recv())
            assert (hello["type"], hello["data"]["sid"]) == ("status", client_id)
            path = "/comfyui/prompt" if url == person.url else "/prompt"
            graph = graphs.sleep(0.4, steps=4, seed=anything())  # nothing of it is cached
            answer = post(url + path, json={"prompt": graph, "client_id": client_id}, timeout=30)
            told.append(list(until_end(socket, answer.json()["prompt_id"])))
    ours, theirs = told
    assert shape(ours) == shape(theirs)
    order = [
        (each["type"], each["data"].get("status", {}).get("exec_info", {}).get("queue_remaining"))
        for each in ours
        if isinstance(each, dict)
    ]
    assert order[:2] == [("status", 1), ("execution_start", None)]
    assert order[-3:] == [("execution_success", None), ("status", 0), ("executing", None)]
    kinds = {message["type"] for message in ours if isinstance(message, dict)}
    assert kinds >= {"status", "execution_start", "execution_cached", "progress", "progress_state"}
    states = [each["data"]["nodes"] for each in ours if isinstance(each, dict) if "nodes" in each["data"]]
    theirs_last = [each for each in theirs if isinstance(each, dict) and each["type"] == "progress_state"][-1]
    last = max((state for state in states if isinstance(state, dict)), key=len)
    assert {key: sorted(value) for key, value in last.items()} == {
        key: sorted(value) for key, value in theirs_last["data"]["nodes"].items()
    }


def two_outputs() -> graphs.Graph:
    """A picture, and another one behind a node that takes a while."""
    graph = graphs.sleep(0.6, steps=4, seed=anything())
    graph["0"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": anything() % 2**24},
    }
    graph["3"] = {"class_type": "SaveImage", "inputs": {"images": ["0", 0], "filename_prefix": "early"}}
    return graph


def outputs_of(messages: list[Any]) -> list[tuple[str, list[str]]]:
    """(node, kinds of output) of each `executed`, in order."""
    named = [each["data"] for each in messages if isinstance(each, dict) and each["type"] == "executed"]
    return [(data["node"], sorted(data["output"])) for data in named]


def test_with_several_outputs_only_executed_waits_for_the_end(gpu_worker, comfyui, person):
    """ComfyUI sends `executed` as each output node is done; here it comes when its files are stored, which is
    when the prompt has ended: a file that is named can be fetched at once. All else is ComfyUI's order."""
    client_id, graph = uuid.uuid4().hex, two_outputs()
    told: list[list[Any]] = []
    for url, post, path, socket in (
        (person.url, person.session.post, "/comfyui/prompt", of(person, client_id)),
        (comfyui.url, requests.post, "/prompt", connect(comfyui.url, client_id)),
    ):
        with opened(socket):
            answer = post(url + path, json={"prompt": graph, "client_id": client_id}, timeout=30)
            told.append([])
            for message in until_end(socket, answer.json()["prompt_id"]):
                told[-1].append(message)
                if url == person.url and isinstance(message, dict) and message["type"] == "executed":
                    [image] = message["data"]["output"]["images"]
                    assert person.get("/comfyui/view", params=image).ok
        graph = two_outputs()  # nothing of it is cached
    ours, theirs = told
    assert sorted(outputs_of(ours)) == sorted(outputs_of(theirs)) == [("2", ["images"]), ("3", ["images"])]
    without = [
        [key for key in shape(messages) if key[0] not in ("executed", "progress", "executing")]
        for messages in told
    ]
    assert without[0] == without[1]
    kinds = [each["type"] for each in ours if isinstance(each, dict)]
    assert kinds[-5:] == ["executed", "executed", "execution_success", "status", "executing"]


def test_outputs_named_at_the_end_can_be_fetched_immediately(person):
    with opened(of(person, "mine", path="/comfyui/api/ws")) as socket:
        prompt = {"prompt": graphs.colour(0x0000FF), "client_id": "mine"}
        prompt_id = person.post("/comfyui/prompt", prompt).json()["prompt_id"]
        told = list(until_end(socket, prompt_id))
        assert prompt_id in person.get(f"/comfyui/history/{prompt_id}").json()
    [executed] = [each["data"] for each in told if each["type"] == "executed"]
    assert (executed["node"], executed["display_node"]) == ("2", "2")
    picture = person.get("/comfyui/view", params=executed["output"]["images"][0])
    assert Image.open(io.BytesIO(picture.content)).getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.parametrize("with_metadata", [False, True])
def test_previews_are_sent_in_a_form_that_the_client_supports(person, with_metadata):
    with opened(of(person, "previews")) as socket:
        flags = {"type": "feature_flags", "data": {"supports_preview_metadata": with_metadata}}
        socket.send(json.dumps(flags))
        assert [json.loads(socket.recv())["type"] for _ in range(2)] == ["status", "feature_flags"]
        graph = graphs.txt2img(steps=8, seed=anything())
        answer = person.post("/comfyui/prompt", {"prompt": graph, "client_id": "previews"})
        told = list(until_end(socket, answer.json()["prompt_id"]))
    frames = [each for each in told if isinstance(each, bytes)]
    assert frames
    kind, second = struct.unpack_from(">II", frames[0])
    assert kind == (PREVIEW_WITH_METADATA if with_metadata else PREVIEW)
    if with_metadata:
        about = json.loads(frames[0][8 : 8 + second])
        assert (about["node_id"], about["prompt_id"]) == ("5", answer.json()["prompt_id"])
    start = 8 + second if with_metadata else 8
    assert Image.open(io.BytesIO(frames[0][start:])).format == "JPEG"


def test_only_the_websocket_of_the_client_id_gets_the_messages(gpu_worker, person):
    stranger = gpu_worker.person()
    with (
        opened(of(person, "a")) as first,
        opened(of(person, "a")) as newer,  # of the same id: the newest gets them
        opened(of(person, "b")) as other,
        opened(of(stranger, "a")) as foreign,
    ):
        newer.recv(), first.recv(), other.recv(), foreign.recv()
        prompt = {"prompt": graphs.colour(5), "client_id": "a"}
        prompt_id = person.post("/comfyui/prompt", prompt).json()["prompt_id"]
        assert any(each["type"] == "executed" for each in until_end(newer, prompt_id))
        unnamed = person.post(
            "/comfyui/prompt", {"prompt": graphs.sleep(0.6, steps=3, seed=anything())}
        ).json()["prompt_id"]
        wait_for(
            lambda: unnamed in person.get("/comfyui/history").json(), seconds=60, what="the end of the second"
        )
        last = person.post("/comfyui/prompt", {**prompt, "client_id": "b"}).json()["prompt_id"]
        told = list(until_end(other, last))
        before = told[: [each["type"] for each in told].index("execution_start")]
        # Of a prompt without a client id: its progress, and nothing else.
        assert {each["type"] for each in before} == {"status", "progress", "progress_state"}
        assert {each["data"].get("prompt_id") for each in before} == {None, unnamed}
        first.settimeout(0.5)
        foreign.settimeout(0.5)
        assert {each["type"] for each in waiting(first)} == {"status"}
        assert waiting(foreign) == []


def waiting(socket: websocket.WebSocket) -> list[Any]:
    found = []
    try:
        while True:
            found.append(json.loads(socket.recv()))
    except websocket.WebSocketTimeoutException:
        return found


def test_failures_and_cancellations_are_reported(person):
    image = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}
    broken = {"1": image, "2": {"class_type": "TestFail", "inputs": {"image": ["1", 0], "message": "no"}}}
    broken["3"] = {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}
    with opened(of(person, "x")) as socket:
        prompt = {"prompt": broken, "client_id": "x"}
        prompt_id = person.post("/comfyui/prompt", prompt).json()["prompt_id"]
        told = list(until_end(socket, prompt_id))
        [error] = [each["data"] for each in told if each["type"] == "execution_error"]
        assert (error["prompt_id"], error["node_id"], error["node_type"]) == (prompt_id, "2", "TestFail")
        assert error["exception_message"]

        prompt = {"prompt": graphs.sleep(60, seed=anything()), "client_id": "x"}
        prompt_id = person.post("/comfyui/prompt", prompt).json()["prompt_id"]
        told = []
        for each in until_end(socket, prompt_id):
            told.append(each["type"])
            if each["type"] == "executing" and each["data"]["node"]:
                person.post("/comfyui/interrupt", {"prompt_id": prompt_id})
        assert told[-3:] == ["execution_interrupted", "status", "executing"]


def test_a_websocket_opened_during_a_run_receives_its_state(person):
    prompt = {"prompt": graphs.sleep(60, seed=anything()), "client_id": "late"}
    prompt_id = person.post("/comfyui/prompt", prompt).json()["prompt_id"]

    def node() -> Any:
        return person.get(f"/workflows/{prompt_id}/status").json()["progress"]["current_node"]

    wait_for(node, seconds=60, what="the node that runs")
    with opened(of(person, "late")) as socket:
        assert json.loads(socket.recv())["data"]["status"]["exec_info"]["queue_remaining"] == 1
        assert json.loads(socket.recv()) == {"type": "executing", "data": {"node": "1"}}
        person.post("/comfyui/interrupt", {"prompt_id": prompt_id})
        assert any(each["type"] == "execution_interrupted" for each in until_end(socket, prompt_id))


def test_a_websocket_ends_with_its_key(bare_stack: Stack):
    person = bare_stack.person()
    key = person.post("/auth/keys", {"name": "ws"}).json()
    with opened(connect(person.url, "k", token=f"Bearer {key['key']}", path="/comfyui/ws")) as socket:
        socket.recv()
        assert person.session.delete(f"{person.url}/auth/keys/{key['id']}", timeout=30).status_code == 204
        opcode, frame = socket.recv_data()
        assert (opcode, struct.unpack(">H", frame[:2])[0]) == (websocket.ABNF.OPCODE_CLOSE, 1008)


@pytest.fixture
def one_stream_each(bare_stack: Stack) -> Iterator[Stack]:
    bare_stack.start_web(env={"STREAMS_PER_USER": "1"})
    yield bare_stack
    bare_stack.stop_web()


def is_admitted(person: Person) -> bool:
    try:
        of(person, "again").shutdown()
    except websocket.WebSocketBadStatusException:
        return False
    return True


@pytest.mark.parametrize("sent", ["[" * 60_000, '{"type": ["feature_flags"], "data": {}}'])
def test_whatever_a_client_says_its_place_is_free_when_it_has_closed(one_stream_each: Stack, sent: str):
    person = one_stream_each.person()
    with opened(of(person, "s")) as socket:
        socket.recv()
        socket.send(sent)
        assert not is_admitted(person)
    wait_for(lambda: is_admitted(person), seconds=60, what="the place of the closed websocket")


def test_handshakes_are_refused_with_the_reason(bare_stack: Stack):
    person = bare_stack.person()
    log = bare_stack.logs / "web.log"
    before = len(log.read_text())  # of earlier tests
    for token, path, status in (
        (None, "/comfyui/ws", 401),
        ("Bearer csk_wrong", "/comfyui/ws", 401),
        (str(person.session.headers["Authorization"]), "/comfyui/nothing", 404),
        (str(person.session.headers["Authorization"]), f"/comfyui/ws?x={'y' * 10}&clientId={'z' * 300}", 400),
    ):
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            connect(person.url, "x", token=token, path=path)
        assert refused.value.status_code == status
    assert person.get("/comfyui/ws").status_code == 426
    lines = log.read_text()[before:]
    assert lines.count("connection rejected") >= 4
    assert " ERROR " not in lines  # a refusal is no fault of the server's


def test_a_key_for_comfyuis_routes_may_stand_in_the_path_and_do_nothing_else(gpu_worker, person):
    made = person.post("/auth/keys", {"name": "tavern", "scope": "comfyui"}).json()
    full = person.post("/auth/keys", {"name": "all"}).json()
    key, base = made["key"], f"{person.url}/c/{made['key']}"
    assert (made["scope"], full["scope"]) == ("comfyui", "all")
    with opened(connect(person.url, "p", path=f"/c/{key}/ws")) as socket:
        prompt = {"prompt": graphs.colour(0xFF0000), "client_id": "p"}
        prompt_id = requests.post(f"{base}/api/prompt", json=prompt, timeout=30).json()["prompt_id"]
        assert any(each["type"] == "executed" for each in until_end(socket, prompt_id))
    assert prompt_id in requests.get(f"{base}/history", timeout=30).json()
    assert prompt_id in person.get("/comfyui/history").json()
    for path, secret, status in (
        ("/workflows/", key, 403),
        ("/auth/keys", key, 403),
        ("/v1/models", key, 403),
        ("/mcp", key, 403),
        ("/comfyui/queue", key, 200),
        (f"/c/{full['key']}/queue", None, 401),
        ("/c/nothing/queue", full["key"], 404),
    ):
        header = {"Authorization": f"Bearer {secret}"} if secret else {}
        assert requests.get(person.url + path, headers=header, timeout=30).status_code == status, path
    person.session.delete(f"{person.url}/auth/keys/{made['id']}", timeout=30)
    assert requests.get(f"{base}/queue", timeout=30).status_code == 401
    log = (gpu_worker.logs / "web.log").read_text()
    assert key not in log
    assert full["key"] not in log


def test_a_host_of_its_own_serves_the_routes_at_its_root(bare_stack: Stack):
    bare_stack.start_web(env={"COMFYUI_DOOR_HOSTS": "GPU.example.com"})
    try:
        person = bare_stack.person()
        host = {"Host": "gpu.example.com:8188"}
        assert person.get("/queue", headers=host).json() == {"queue_running": [], "queue_pending": []}
        assert person.get("/queue").status_code == 404
    finally:
        bare_stack.stop_web()
