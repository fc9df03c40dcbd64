"""The same requests to the real ComfyUI and to the scripted one get the same answers, in the same order."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from tests.comfyui.targets import Graph, picture
from tests.comfyui.test_same_shapes import Conversation, shape, text_frame
from tests.scripted_comfyui import PNG, NodeClass
from tests.scripted_comfyui.nodes import loop, sleep

PROGRESS = {"progress", "progress_state", "status"}  # how many come before an interrupt is a matter of time
Answer = tuple[int, str | None, str | None, Any]
Script = Callable[["Caller"], Iterator[requests.Response]]
ANY_ID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
NO_TYPE = "application/octet-stream"  # of an answer without a body: aiohttp leaves it to the client


class Caller(Conversation):
    """A conversation in plain HTTP."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.mark = uuid.uuid4().hex  # in names of files

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(method, self.url + path, timeout=30, allow_redirects=False, **options)

    def view(self, **query: str) -> requests.Response:
        return self.call("GET", "/view", params=query)

    def upload(self, content: bytes = PNG, *, name: str = "a.png", **fields: str) -> requests.Response:
        fields = {"subfolder": self.mark} | fields
        return self.call("POST", "/upload/image", files={"image": (name, content)}, data=fields)

    def run(self, graph: Graph) -> str:
        assert self.submit(graph).status_code == 200
        self.messages()
        return self.prompt_id

    def begin(self) -> str:
        """Something long, which runs when this returns."""
        assert self.submit(long()).status_code == 200
        while json.loads(text_frame(self))["type"] != "executing":
            pass
        return self.prompt_id


def long() -> Graph:
    """Both have this class: see `tests/comfyui_nodes`."""
    inputs = {"seconds": 300.0, "steps": 1000, "seed": uuid.uuid4().int % 2**60}
    return picture() | {"1": {"class_type": "TestSleep", "inputs": inputs}}


def answer_of(response: requests.Response, caller: Caller) -> Answer:
    """What must be the same: status, types, and the body (JSON by its shape, a picture as one)."""
    content_type = response.headers.get("Content-Type", NO_TYPE).partition(";")[0]
    if content_type == "application/json":
        body = shape(json.loads(re.sub(ANY_ID, "ID", response.text)))
    elif content_type == "image/png":
        body = "a picture"
    else:
        body = response.text.replace(caller.mark, "MARK")
    disposition = response.headers.get("Content-Disposition", "").replace(caller.mark, "MARK") or None
    return response.status_code, content_type, disposition, body


def viewing(caller: Caller) -> Iterator[requests.Response]:
    caller.run(picture(prefix=f"{caller.mark}/x"))
    yield caller.view(filename="x_00001_.png", subfolder=caller.mark)
    yield caller.view(filename="x_00001_.png", subfolder=caller.mark, type="output")
    yield caller.view(filename=f"{caller.mark}/x_00001_.png")
    for query in (
        {},
        {"filename": ""},
        {"filename": "gone.png"},
        {"filename": "/etc/passwd"},
        {"filename": "../x.png"},
        {"filename": "x.png", "subfolder": "../.."},
        {"filename": "x.png", "subfolder": "nowhere"},
        {"filename": "x.png", "type": "nonsense"},
        {"filename": "x_00001_.png", "subfolder": caller.mark, "type": "input"},
        {"filename": "x_00001_.png", "subfolder": caller.mark, "type": "temp"},
        {"filename": "x_00001_.png [output]", "subfolder": caller.mark, "type": "input"},
    ):
        yield caller.view(**query)


def viewing_other_types(caller: Caller) -> Iterator[requests.Response]:
    for name in ("page.html", "text.txt", "script.js", "style.css", "drawing.svg", "unknown", "data.bin"):
        caller.upload(b"0123456789", name=name)
        yield caller.view(filename=name, subfolder=caller.mark, type="input")
    yield caller.call(
        "GET",
        "/view",
        params={"filename": "data.bin", "subfolder": caller.mark, "type": "input"},
        headers={"Range": "bytes=2-4"},
    )


def uploading(caller: Caller) -> Iterator[requests.Response]:
    yield caller.upload()
    yield caller.upload()  # the same bytes under the same name
    yield caller.upload(b"other bytes")
    yield caller.upload(b"other bytes", overwrite="true")
    yield caller.upload(b"more", overwrite="1")
    yield caller.upload(b"more", overwrite="false")
    yield caller.upload(type="temp")
    yield caller.upload(type="output")
    yield caller.upload(type="nonsense")
    yield caller.upload(subfolder="../..")
    yield caller.upload(subfolder=f"{caller.mark}/deeper/still")
    yield caller.call("POST", "/upload/image", data={"subfolder": caller.mark})
    yield caller.call("POST", "/upload/image", files={"other": ("a.png", PNG)})
    yield caller.call("POST", "/upload/image", json={})
    yield caller.view(filename="a.png", subfolder=caller.mark, type="input")


def uploaded_names(caller: Caller) -> Iterator[requests.Response]:
    for name in ("with space.png", "ünï 图.png", "per%20cent.png", "a'b.png", "noextension"):
        yield caller.upload(name=name)
        yield caller.view(filename=name, subfolder=caller.mark, type="input")


def history(caller: Caller) -> Iterator[requests.Response]:
    yield caller.call("GET", "/history/nothing")
    prompt_id = caller.run(picture())
    yield caller.call("GET", f"/history/{prompt_id}")
    yield caller.call("POST", "/history", json={"delete": ["nothing"]})
    yield caller.call("POST", "/history", json={})
    yield caller.call("GET", f"/history/{prompt_id}")
    yield caller.call("POST", "/history", json={"delete": [prompt_id]})
    yield caller.call("GET", f"/history/{prompt_id}")
    yield caller.call("POST", "/history", json={"delete": [prompt_id]})
    yield caller.call("GET", "/history", params={"max_items": "0"})
    yield caller.call("GET", "/history", params={"max_items": "nonsense"})
    yield caller.call("POST", "/history", data=b"no json")


def history_of_what_has_not_ended(caller: Caller) -> Iterator[requests.Response]:
    running = caller.begin()
    caller.submit(picture())
    waiting = caller.prompt_id
    for prompt_id in (running, waiting):
        yield caller.call("GET", f"/history/{prompt_id}")
        yield caller.call("POST", "/history", json={"delete": [prompt_id]})
    yield caller.call("POST", "/queue", json={"delete": [waiting]})
    yield caller.call("GET", f"/history/{waiting}")
    yield caller.call("POST", "/interrupt", json={"prompt_id": running})
    caller.messages()
    yield caller.call("GET", f"/history/{running}")


def one_id_twice(caller: Caller) -> Iterator[requests.Response]:
    """It runs twice, and history shows the old run until the new one ends."""
    prompt_id = caller.run(picture())
    yield caller.submit(long(), prompt_id=prompt_id)
    while json.loads(text_frame(caller))["type"] != "executing":
        pass
    yield caller.call("GET", f"/history/{prompt_id}")
    yield caller.call("POST", "/interrupt", json={"prompt_id": prompt_id})
    caller.messages()
    yield caller.call("GET", f"/history/{prompt_id}")


def interrupting(caller: Caller) -> Iterator[requests.Response]:
    yield caller.call("POST", "/interrupt", json={"prompt_id": "nothing"})
    yield caller.call("POST", "/interrupt", data=b"no json")  # of whatever runs: nothing
    running = caller.begin()
    yield caller.call("POST", "/interrupt", json={"prompt_id": str(uuid.uuid4())})
    yield caller.call("GET", "/queue")
    yield caller.call("POST", "/interrupt", json={"prompt_id": running})
    caller.messages()
    yield caller.call("GET", f"/history/{running}")
    caller.begin()
    yield caller.call("POST", "/interrupt", json={})
    caller.messages()
    yield caller.call("GET", f"/history/{caller.prompt_id}")
    caller.begin()
    yield caller.call("POST", "/interrupt")
    caller.messages()
    caller.run(picture())  # an interrupt is over with the run it was for
    yield caller.call("GET", f"/history/{caller.prompt_id}")


def the_queue(caller: Caller) -> Iterator[requests.Response]:
    yield caller.call("POST", "/queue", json={"delete": ["nothing"]})
    yield caller.call("POST", "/queue", json={})
    running = caller.begin()
    yield caller.call("POST", "/queue", json={"delete": [running]})
    for _ in range(2):
        yield caller.submit(picture())
    yield caller.submit(picture(), front=True)
    yield caller.submit(picture(), number=-5)
    yield caller.call("GET", "/prompt")
    yield caller.call("POST", "/queue", json={"delete": [caller.prompt_id]})
    yield caller.call("POST", "/queue", json={"clear": True})
    yield caller.call("GET", "/prompt")
    yield caller.call("POST", "/interrupt", json={"prompt_id": running})
    caller.messages()


def cancelling_a_job(caller: Caller) -> Iterator[requests.Response]:
    """Unknown to 0.3.75; the scripted one has it with `modern` only."""
    prompt_id = caller.begin()
    for prefix in ("", "/api"):
        yield caller.call("POST", f"{prefix}/jobs/{prompt_id}/cancel")
    yield caller.call("GET", "/queue")
    yield caller.call("POST", "/interrupt", json={"prompt_id": prompt_id})
    caller.messages()


def submitting(caller: Caller) -> Iterator[requests.Response]:
    graph = picture()
    yield caller.call("POST", "/prompt", json={})
    yield caller.call("POST", "/prompt", json={"prompt": {}})
    yield caller.call("POST", "/prompt", data=b"no json")
    yield caller.call("POST", "/prompt", json={"prompt": graph, "prompt_id": "no UUID"})
    yield caller.call("POST", "/prompt", json={"prompt": graph})
    yield caller.submit(graph, partial_execution_targets=["2"])
    caller.messages()
    yield caller.submit(graph, partial_execution_targets=["1"])
    yield caller.submit({"1": {"inputs": {}}})
    yield caller.submit({"1": {"inputs": {}, "_meta": {"title": "A name"}}})
    yield caller.submit({"1": {"class_type": "Nope", "_meta": {"title": "A name"}}})


def cycles(caller: Caller) -> Iterator[requests.Response]:
    for graph in (in_a_ring(2), in_a_ring(1), in_a_ring(3), picture() | in_a_ring(2)):
        yield caller.submit(graph)


def in_a_ring(count: int) -> Graph:
    """Nodes that each wait for the next one, and an output behind them."""
    names = [f"r{number}" for number in range(count)]
    ring = {
        name: {"class_type": "ImageInvert", "inputs": {"image": [names[(number + 1) % count], 0]}}
        for number, name in enumerate(names)
    }
    save = {"class_type": "SaveImage", "inputs": {"images": ["r0", 0], "filename_prefix": "x"}}
    return ring | {"save": save}


@pytest.fixture
def callers(comfyui_url, scripted):
    """(real, scripted), with the same node classes."""
    number = {"min": 0}
    scripted.classes["TestSleep"] = NodeClass(
        run=sleep,
        required={"seconds": ["FLOAT", number], "steps": ["INT", number], "seed": ["INT", number]},
        returns=("IMAGE",),
    )
    scripted.classes["TestLoop"] = NodeClass(
        run=loop, required={"image": ["IMAGE"], "times": ["INT", number]}, returns=("IMAGE",)
    )
    both = [Caller(url) for url in (comfyui_url, scripted.url)]
    yield both
    for caller in both:
        caller.call("POST", "/queue", json={"clear": True})
        caller.call("POST", "/interrupt")
        caller.socket.close()


@pytest.mark.parametrize(
    "script",
    [
        viewing,
        viewing_other_types,
        uploading,
        uploaded_names,
        history,
        history_of_what_has_not_ended,
        one_id_twice,
        interrupting,
        the_queue,
        cancelling_a_job,
        submitting,
        cycles,
    ],
)
def test_the_same_script_gets_the_same_answers(callers, script):
    said = [[answer_of(response, caller) for response in script(caller)] for caller in callers]
    different = {number: pair for number, pair in enumerate(zip(*said, strict=True)) if pair[0] != pair[1]}
    assert different == {}, "request: (real, scripted)"


def test_the_same_messages_of_an_interrupted_run(callers):
    told = []
    for caller in callers:
        caller.begin()
        caller.call("POST", "/interrupt", json={"prompt_id": caller.prompt_id})
        told.append([each for each in caller.messages() if each["type"] not in PROGRESS])
    assert told[1] == told[0]


@pytest.mark.parametrize("times", [0, 1, 3])
def test_the_same_messages_of_a_loop(callers, times):
    """Each round is told under ids of its own, and shown as the node of the graph."""
    told = []
    for caller in callers:
        graph = picture()
        graph["3"] = {"class_type": "TestLoop", "inputs": {"image": ["1", 0], "times": times}}
        graph["2"]["inputs"]["images"] = ["3", 0]
        caller.submit(graph)
        told.append(caller.messages())
    assert told[1] == told[0]


def test_the_history_exists_when_the_end_is_announced(callers):
    """And not before: a client that asks at `execution_success` may be too early."""
    for caller in callers:
        prompt_id = caller.run(picture())
        assert prompt_id in caller.get(f"/history/{prompt_id}")
