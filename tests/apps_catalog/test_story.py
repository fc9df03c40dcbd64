"""From ComfyUI's own editor to an app: one user saves it, another runs it from the page and by curl."""

from __future__ import annotations

import io
import json
import subprocess

import pytest
from PIL import Image

from script.harness.waiting import wait_for
from tests.apps_catalog.test_page import log_in, shoot
from tests.browser import serious_faults
from tests.workflows import editor_page

pytestmark = pytest.mark.timeout(400)

# What an artist does by hand: two nodes, a link between them, a title, and "Save".
DRAW = """() => {
    app.graph.clear();
    const paint = LiteGraph.createNode("EmptyImage");
    const save = LiteGraph.createNode("SaveImage");
    app.graph.add(paint);
    app.graph.add(save);
    paint.title = "Paint";
    for (const widget of paint.widgets) {
        if (["width", "height"].includes(widget.name)) { widget.value = 16; }
    }
    paint.connect(0, save, 0);
    return {file: app.graph.serialize(), paint: String(paint.id), save: String(save.id)};
}"""


@pytest.fixture
def drawn(browser, comfyui):
    with editor_page.editor(browser, comfyui.url) as page:
        return page.evaluate(DRAW)


def test_a_workflow_of_the_editor_becomes_an_app_for_others(gpu_worker, drawn, page):
    owner, artist = gpu_worker.person("story-owner"), gpu_worker.person("story-artist")
    assert isinstance(drawn["file"]["nodes"], list), "the editor's own format, not the API's"
    app = {
        "name": "paint", "title": "Paint", "workflow": drawn["file"], "visibility": "everybody",
        "inputs": [{"name": "colour", "node": drawn["paint"], "input": "color"}],
        "outputs": [{"name": "picture", "node": drawn["save"]}],
    }  # fmt: skip
    answer = owner.post("/apps/", json=app)
    assert answer.status_code == 201, answer.text
    address = answer.json()["app"]

    log_in(page, f"{gpu_worker.url}/apps/", artist)
    page.click(f".gallery a[href='/apps/{address}']")
    page.fill("[name=colour]", "255")
    page.click("button.main")
    page.wait_for_selector(".history button", timeout=60_000)
    shown = page.locator(".result img")
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") == 16
    assert serious_faults(page) == ""
    page.click("text=Show the curl")
    shoot(page, "apps-story")

    # The very command that the page shows, in a shell.
    command = page.text_content("pre")
    token = artist.session.headers["Authorization"].removeprefix("Bearer ")
    done = subprocess.run(
        ["bash", "-c", command], env={"TOKEN": token, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = artist.result(json.loads(done.stdout)["execution_id"])
    assert (result["status"], result["app"], result["version"]) == ("completed", address, 1)
    [picture] = result["named_outputs"]["picture"]
    content = artist.get(f"/files/{picture['file_id']}").content
    assert Image.open(io.BytesIO(content)).getpixel((0, 0)) == (0, 0, 255)

    grid = {"colour": [number * 20_000 for number in range(12)]}
    path = artist.post(f"/apps/{address}/batch", json={"grid": grid}).json()["batch_id"]
    path = f"/workflows/batches/{path}"
    wait_for(lambda: artist.get(path).json()["status"] == "completed", seconds=60, what="the batch's end")
    assert artist.get(path).json()["counts"]["completed"] == 12
    sheet = Image.open(io.BytesIO(artist.get(f"{path}/contact-sheet").content))
    assert sheet.size == (4 * 264 + 8, 3 * 282 + 8)
