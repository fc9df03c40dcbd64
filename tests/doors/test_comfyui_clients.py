"""Software written for a ComfyUI, run unmodified against ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from script.harness import graphs
from script.harness.waiting import wait_for
from tests.doors import npm

pytestmark = pytest.mark.timeout(400)  # one test installs a client

# The address and, since the tests' ComfyUI has tiny models on a CPU, the model, the size and the steps.
REPLACED = (
    ("v1-5-pruned-emaonly.safetensors", "tiny-sd15.safetensors"),
    (": 512", ": 64"),
    ('"steps": 20', '"steps": 2'),
)


def example(stack: Any, comfyui: Any, person: Any, name: str, folder: Path) -> Path:
    """ComfyUI's own script, with a key of the person's in its address."""
    key = person.post("/auth/keys", {"name": name, "scope": "comfyui"}).json()["key"]
    [source] = Path(comfyui.install).rglob(f"script_examples/{name}")
    text = source.read_text().replace("127.0.0.1:8188", f"127.0.0.1:{stack.port}/c/{key}")
    for old, new in REPLACED:
        assert old in text
        text = text.replace(old, new)
    script = folder / name
    script.write_text(text)
    return script


@pytest.mark.parametrize("name", ["basic_api_example.py", "websockets_api_example.py"])
def test_comfyuis_own_examples_run(gpu_worker: Any, comfyui: Any, tmp_path: Path, name: str):
    person = gpu_worker.person()
    script = example(gpu_worker, comfyui, person, name, tmp_path)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    [entry] = wait_for(
        lambda: list(person.get("/comfyui/history").json().values()), seconds=60, what="the end of the prompt"
    )
    assert entry["status"]["status_str"] == "success"
    assert entry["outputs"]["9"]["images"]


# The example leaves the display of its pictures to its reader, as a comment: this counts and opens them.
OPENED = """
from PIL import Image
import io
for node_id, pictures in images.items():
    for data in pictures:
        print(node_id, Image.open(io.BytesIO(data)).format, Image.open(io.BytesIO(data)).size)
"""


def test_comfyuis_example_gets_its_pictures_over_the_websocket(gpu_worker: Any, comfyui: Any, tmp_path: Path):
    """The pictures of SaveImageWebsocket come after `executing` of that node and before the next one."""
    person = gpu_worker.person()
    script = example(gpu_worker, comfyui, person, "websockets_api_example_ws_images.py", tmp_path)
    script.write_text(script.read_text() + OPENED)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["save_image_websocket_node PNG (64, 64)"]


SDK = "@saintno/comfyui-sdk@0.3.1"
# As its documentation shows it: upload, build the prompt, run it over the websocket, fetch the pictures.
SDK_SCRIPT = """
import { readFile } from "node:fs/promises";
import { ComfyApi, CallWrapper, PromptBuilder } from "@saintno/comfyui-sdk";
const [address, token, graph] = process.argv.slice(2);
const credentials = { type: "bearer_token", token };
const api = new ComfyApi(address, "sdk-client", { credentials });
await api.init().waitForReady();
const uploaded = await api.uploadImage(await readFile("a.png"), "a.png");
const prompt = JSON.parse(graph);
prompt["1"].inputs.image = uploaded.info.filename;
const builder = new PromptBuilder(prompt, [], ["images"]).setOutputNode("images", "2");
const told = [];
const made = await new Promise((resolve, reject) =>
  new CallWrapper(api, builder)
    .onPending(() => told.push("pending"))
    .onOutput((name) => told.push(name))
    .onFinished(resolve)
    .onFailed(reject)
    .run());
const images = await Promise.all(made.images.images.map((image) => api.getImage(image)));
const sizes = images.map((image) => image.size);
const history = Object.keys(await api.getHistories(5));
const checkpoints = await api.getCheckpoints();
await api.storeSetting("theme", "dark");
const theme = await api.getSetting("theme");
await api.storeUserData("workflows/a.json", { a: 1 });
const kept = await (await api.getUserData("workflows/a.json")).json();
const { storage } = await api.getUserConfig();
console.log(JSON.stringify({ told, sizes, history, checkpoints, theme, kept, storage }));
process.exit(0);
"""


@pytest.fixture(scope="session")
def comfyui_sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return npm.install(SDK, tmp_path_factory.mktemp("sdk"))


def test_the_sdk_of_npm_runs(gpu_worker: Any, comfyui_sdk: Path):
    person = gpu_worker.person()
    key = person.post("/auth/keys", {"name": "sdk", "scope": "comfyui"}).json()["key"]
    # The SDK reports no output of a run that has ended before it has asked whether it was cached.
    graph: graphs.Graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": ""}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "sdk"}},
        "3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["4", 0]}},
        "4": {"class_type": "TestSleep", "inputs": {"seconds": 2.0, "steps": 2, "seed": 303}},
    }
    (comfyui_sdk / "run.js").write_text(SDK_SCRIPT)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(comfyui_sdk / "a.png")
    address = f"http://127.0.0.1:{gpu_worker.port}/comfyui"
    done = subprocess.run(
        ["node", "run.js", address, key, json.dumps(graph)],
        cwd=comfyui_sdk, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["told"] == ["pending", "images"]
    assert all(told["sizes"])
    assert told["history"] == list(person.get("/comfyui/history").json())
    assert "tiny-sd15.safetensors" in told["checkpoints"]
    assert (told["theme"], told["kept"], told["storage"]) == ("dark", {"a": 1}, "server")
