"""Clients that cannot be installed here: the calls in their sources, in the same order and shape.

Each function below is one client's way from its settings to the bytes of a picture.
"""

from __future__ import annotations

import base64
import io
import json
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import requests
import websocket
from PIL import Image

from script.harness import graphs
from script.harness.stack import Person
from script.harness.waiting import wait_for

SECONDS = 30


@dataclass(frozen=True)
class Server:
    """What a user puts into a client's settings."""

    url: str  # of this service
    key: str
    scoped_key: str  # of the scope `comfyui`, for clients that take nothing but an address

    @property
    def comfyui(self) -> str:
        return f"{self.url}/comfyui"

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@pytest.fixture
def person(gpu_worker: Any) -> Person:
    return gpu_worker.person()


@pytest.fixture
def server(person: Person) -> Server:
    made = [
        person.post("/auth/keys", {"name": scope, "scope": scope}).json()["key"]
        for scope in ("all", "comfyui")
    ]
    return Server(person.url, *made)


def json_of(answer: requests.Response) -> Any:
    assert answer.ok, answer.text
    return answer.json()


def content_of(answer: requests.Response) -> bytes:
    assert answer.ok, answer.text
    return answer.content


def received(socket: websocket.WebSocket) -> dict[str, Any]:
    """The next message that is text; previews are skipped."""
    while True:
        got = socket.recv()
        if isinstance(got, str):
            found: dict[str, Any] = json.loads(got)
            return found


def until_executed(socket: websocket.WebSocket, prompt_id: str) -> None:
    while True:
        message = received(socket)
        data = message["data"]
        if message["type"] == "executing" and data["node"] is None and data["prompt_id"] == prompt_id:
            return


def red_picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (255, 0, 0)).save(out, "PNG")
    return out.getvalue()


def loading(name: str) -> dict[str, Any]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a client"}},
    }


# -- ComfyUI's routes ----------------------------------------------------------------------------------------
def open_webui(server: Server) -> bytes:
    """backend/open_webui/utils/images/comfyui.py, and the check of the settings in routers/images.py."""
    headers = {"User-Agent": "Mozilla/5.0", **server.bearer}
    json_of(requests.get(f"{server.comfyui}/object_info", headers=server.bearer, timeout=SECONDS))
    files = {"image": ("a.png", red_picture(), "image/png")}
    url = f"{server.comfyui}/api/upload/image"
    form = requests.post(url, files=files, data={"type": "input"}, headers=server.bearer, timeout=SECONDS)
    workflow, client_id = loading(json_of(form)["name"]), str(uuid.uuid4())
    socket = websocket.WebSocket()
    socket.connect(
        f"{server.comfyui.replace('http', 'ws', 1)}/ws?clientId={client_id}",
        header=server.bearer, timeout=SECONDS,
    )  # fmt: skip
    body = {"prompt": workflow, "client_id": client_id}
    prompt = requests.post(f"{server.comfyui}/prompt", json=body, headers=headers, timeout=SECONDS)
    prompt_id = json_of(prompt)["prompt_id"]
    until_executed(socket, prompt_id)
    socket.shutdown()
    history = requests.get(f"{server.comfyui}/history/{prompt_id}", headers=headers, timeout=SECONDS)
    outputs = json_of(history)[prompt_id]["outputs"]
    [image] = [
        image
        for node, output in outputs.items()
        if workflow[node]["class_type"] in ("SaveImage", "PreviewImage")
        for image in output["images"]
    ]
    query = urlencode({name: image[name] for name in ("filename", "subfolder", "type")})
    return content_of(requests.get(f"{server.comfyui}/view?{query}", headers=headers, timeout=SECONDS))


def silly_tavern(server: Server) -> bytes:
    """src/endpoints/stable-diffusion.js. Its basic authentication is empty, and its JSON has
    the type of plain text."""
    url = f"{server.url}/c/{server.scoped_key}"
    basic = {"Authorization": "Basic " + base64.b64encode(b"").decode()}
    assert requests.get(f"{url}/system_stats", headers=basic, timeout=SECONDS).ok
    known = json_of(requests.get(f"{url}/object_info", timeout=SECONDS))
    for node, name in (
        ("KSampler", "sampler_name"),
        ("KSampler", "scheduler"),
        ("CheckpointLoaderSimple", "ckpt_name"),
        ("UNETLoader", "unet_name"),
        ("VAELoader", "vae_name"),
    ):
        assert isinstance(known[node]["input"]["required"][name][0], list)
    body = json.dumps({"prompt": graphs.colour(0xFF0000)})
    text = {"Content-Type": "text/plain;charset=UTF-8"}
    prompt_id = json_of(requests.post(f"{url}/prompt", data=body, headers=text, timeout=SECONDS))["prompt_id"]
    item = wait_for(
        lambda: json_of(requests.get(f"{url}/history", timeout=SECONDS)).get(prompt_id),
        seconds=SECONDS, what="the prompt in the whole history",
    )  # fmt: skip
    assert item["status"]["status_str"] != "error"
    image = next(image for output in item["outputs"].values() for image in output.get("images", []))
    query = f"filename={image['filename']}&subfolder={image['subfolder']}&type={image['type']}"
    picture = requests.get(f"{url}/view?{query}", timeout=SECONDS)
    assert requests.post(f"{url}/interrupt", headers=basic, timeout=SECONDS).ok
    return content_of(picture)


def dify(server: Server) -> bytes:
    """tools/comfyui/tools/comfyui_client.py of its official plugins: `queue_prompt_image`, whose websocket
    opens after the prompt was posted."""
    url, client_id = server.comfyui, str(uuid.uuid4())
    prompt_id = dify_prompt(server, url, client_id, dify_upload(server, url))
    socket = websocket.WebSocket()
    socket.connect(
        f"{url.replace('http', 'ws')}/ws?clientId={client_id}",
        header=[f"Authorization: Bearer {server.key}"], timeout=SECONDS,
    )  # fmt: skip
    while True:
        message = received(socket)
        data = message["data"]
        if message["type"] == "executing" and data["node"] is None and data["prompt_id"] == prompt_id:
            break
        if message["type"] == "status":
            left = data["status"]["exec_info"]["queue_remaining"]
            if left == 0 and data.get("sid"):
                break
    socket.shutdown()
    return dify_picture(server, url, prompt_id)


def dify_generate(server: Server, url: str) -> bytes:
    """The same file's `generate`, which most of its tools call: the websocket opens first, at the root of the
    host, whatever path `url` has."""
    for folder in json_of(requests.get(f"{url}/models", headers=server.bearer, timeout=SECONDS)):
        names = json_of(requests.get(f"{url}/models/{folder}", headers=server.bearer, timeout=SECONDS))
        assert isinstance(names, list)
    about = json_of(requests.get(f"{url}/object_info/KSampler", headers=server.bearer, timeout=SECONDS))
    inputs = about["KSampler"]["input"]["required"]
    assert {"euler", "normal"} <= {*inputs["sampler_name"][0], *inputs["scheduler"][0]}
    name, client_id = dify_upload(server, url), str(uuid.uuid4())
    socket = websocket.WebSocket()
    socket.connect(
        f"ws://{urlsplit(url).netloc}/ws?clientId={client_id}",
        header=[f"Authorization: Bearer {server.key}"], timeout=SECONDS,
    )  # fmt: skip
    prompt_id = dify_prompt(server, url, client_id, name)
    until_executed(socket, prompt_id)
    socket.shutdown()
    return dify_picture(server, url, prompt_id)


def dify_upload(server: Server, url: str) -> str:
    # The word stands in a part with a file's name, as `requests` sends it.
    files: Any = {"image": ("a.png", red_picture(), "image/png"), "overwrite": "true"}
    made = requests.post(f"{url}/upload/image", files=files, headers=server.bearer, timeout=SECONDS)
    return str(json_of(made)["name"])


def dify_prompt(server: Server, url: str, client_id: str, picture: str) -> str:
    """Where its settings have no key for partner services, it sends an empty one."""
    body = {
        "client_id": client_id, "prompt": loading(picture), "extra_data": {"api_key_comfy_org": ""},
    }  # fmt: skip
    made = requests.post(f"{url}/prompt", data=json.dumps(body), headers=server.bearer, timeout=SECONDS)
    return str(json_of(made)["prompt_id"])


def dify_picture(server: Server, url: str, prompt_id: str) -> bytes:
    query = {"prompt_id": prompt_id}
    history = requests.get(f"{url}/history", params=query, headers=server.bearer, timeout=SECONDS)
    [image] = [
        image
        for output in json_of(history)[prompt_id]["outputs"].values()
        for image in output.get("images", []) + output.get("gifs", [])
    ]
    return content_of(requests.get(f"{url}/view", params=image, headers=server.bearer, timeout=SECONDS))


def n8n(server: Server) -> bytes:
    """nodes/ComfyUI/Comfyui.node.ts of mason276752's package. A prompt in neither queue nor history
    is fatal."""
    url, headers = server.comfyui, {"Content-Type": "application/json", **server.bearer}

    def get(path: str) -> Any:
        return json_of(requests.get(f"{url}{path}", headers=headers, timeout=SECONDS))

    get("/system_stats")
    body = {"prompt": graphs.colour(0xFF0000)}
    prompt = requests.post(f"{url}/prompt", json=body, headers=headers, timeout=SECONDS)
    prompt_id = json_of(prompt)["prompt_id"]

    def result() -> Any:
        queue = get("/queue")
        if any(prompt_id == item[1] for item in [*queue["queue_running"], *queue["queue_pending"]]):
            return None
        return get(f"/history/{prompt_id}")[prompt_id]

    found = wait_for(result, seconds=SECONDS, what="the prompt out of the queue")
    assert found["status"]["completed"]
    [image] = [image for output in found["outputs"].values() for image in output.get("images", [])]
    assert image["type"] in ("output", "temp")
    query = f"filename={image['filename']}&subfolder={image['subfolder']}&type={image['type']}"
    return content_of(requests.get(f"{url}/view?{query}", headers=headers, timeout=SECONDS))


# -- OpenAI's images -----------------------------------------------------------------------------------------
def generated(server: Server, body: dict[str, Any]) -> bytes:
    url = f"{server.url}/v1/images/generations"
    [image] = json_of(requests.post(url, json=body, headers=server.bearer, timeout=SECONDS))["data"]
    return base64.b64decode(image["b64_json"])


def edited(server: Server, form: dict[str, str], *, field: str) -> bytes:
    files = [(field, ("a.png", red_picture(), "image/png"))]
    url = f"{server.url}/v1/images/edits"
    made = requests.post(url, data=form, files=files, headers=server.bearer, timeout=SECONDS)
    return base64.b64decode(json_of(made)["data"][0]["b64_json"])


def open_webui_as_openai(server: Server) -> bytes:
    """routers/images.py with the engine `openai`."""
    body = {
        "model": "painted-for-clients", "prompt": "red", "n": 1, "size": "16x16",
        "response_format": "b64_json",
    }  # fmt: skip
    return generated(server, body)


def open_webui_edit(server: Server) -> bytes:
    """The same with pictures: form fields are texts, and the pictures are `image` or `image[]`."""
    form = {"model": "painted-for-clients", "prompt": "red", "n": "1", "response_format": "b64_json"}
    return edited(server, form, field="image")


def libre_chat(server: Server) -> bytes:
    """api/app/clients/tools/structured/OpenAIImageTools.js: the model's name is fixed."""
    body = {
        "model": "gpt-image-1", "prompt": "red", "n": 1, "background": "auto", "output_format": "png",
        "quality": "auto", "size": "auto",
    }  # fmt: skip
    return generated(server, body)


def libre_chat_as_webp(server: Server) -> bytes:
    body = {
        "model": "gpt-image-1", "prompt": "red", "n": 1, "background": "transparent", "quality": "high",
        "output_format": "webp", "output_compression": 100, "size": "1024x1536",
    }  # fmt: skip
    picture = generated(server, body)
    assert Image.open(io.BytesIO(picture)).format == "WEBP"
    return picture


def libre_chat_edit(server: Server) -> bytes:
    form = {"model": "gpt-image-1", "prompt": "red", "quality": "auto", "size": "auto"}
    return edited(server, form, field="image[]")


def app(name: str, *, takes_picture: bool) -> dict[str, Any]:
    """An app whose picture is red."""
    workflow = loading("example.png") if takes_picture else graphs.colour(0xFF0000)
    workflow["3"] = {"class_type": "PreviewAny", "inputs": {"source": str(random.random())}}
    inputs = [{"name": "prompt", "node": "3", "input": "source", "type": "text"}]
    if takes_picture:
        inputs.append({"name": "photo", "node": "1", "input": "image", "type": "image"})
    return {"name": name, "workflow": workflow, "inputs": inputs}


@pytest.mark.parametrize(
    "client",
    [
        open_webui,
        silly_tavern,
        dify,
        n8n,
        open_webui_as_openai,
        open_webui_edit,
        libre_chat,
        libre_chat_as_webp,
        libre_chat_edit,
    ],
    ids=lambda client: client.__name__,
)
def test_a_client_gets_its_picture(person: Person, server: Server, client: Callable[[Server], bytes]):
    edits = client.__name__.endswith("_edit")
    for name in ("painted-for-clients", "gpt-image-1-app"):
        answer = person.post("/apps/", app(name, takes_picture=edits))
        assert answer.status_code == 201, answer.text
    picture = Image.open(io.BytesIO(client(server))).convert("RGB")
    red, green, blue = picture.getpixel((1, 1))  # type: ignore[misc]
    assert (red > 240, green < 15, blue < 15) == (True, True, True)


@pytest.mark.parametrize("path", ["", "/comfyui"])
def test_dify_gets_its_picture_from_a_host_of_its_own(gpu_worker: Any, path: str):
    gpu_worker.start_web(env={"COMFYUI_DOOR_HOSTS": "localhost"})
    try:
        person = gpu_worker.person()
        key = person.post("/auth/keys", {"name": "dify"}).json()["key"]
        picture = dify_generate(Server(person.url, key, ""), f"http://localhost:{gpu_worker.port}{path}")
        assert Image.open(io.BytesIO(picture)).convert("RGB").getpixel((1, 1)) == (255, 0, 0)
    finally:
        gpu_worker.stop_web()
