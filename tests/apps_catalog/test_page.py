"""The page of apps in a real browser: one user saves an app, another runs it there."""

from __future__ import annotations

import io

from PIL import Image

from tests.browser import serious_faults
from tests.waiting import wait_for
from tests.workflows import graphs


def test_another_user_runs_it_from_the_page(gpu_worker, page):
    owner, artist = gpu_worker.person("owner"), gpu_worker.person("artist")
    saved = owner.post(
        "/apps/",
        json={
            "name": "colour", "title": "A colour", "workflow": graphs.colour(255), "visibility": "everybody",
            "inputs": [{"name": "colour", "node": "1", "input": "color"}],
        },
    ).json()  # fmt: skip
    page.goto(f"{gpu_worker.url}/apps/")
    assert serious_faults(page) == ""
    page.fill("[name=email]", artist.email)
    page.fill("[name=password]", artist.password)
    page.press("[name=password]", "Enter")
    page.click(f".gallery a[href='/apps/{saved['app']}']")
    page.fill("[name=colour]", "65280")
    page.click("text=Run")
    page.wait_for_selector(".history button", timeout=30_000)
    assert (
        page.locator(".result img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 16
    )
    assert serious_faults(page) == ""
    page.fill("[name=colour]", "1")
    page.click("text=Use these inputs again")
    assert page.input_value("[name=colour]") == "65280"
    page.click("text=Show the curl")
    assert '"colour":65280' in page.text_content("pre")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.emulate_media(color_scheme="dark")
    assert serious_faults(page) == ""


def test_a_batch_of_twelve_gives_a_contact_sheet(gpu_worker):
    owner, artist = gpu_worker.person("sheet-owner"), gpu_worker.person("sheet-artist")
    app = {
        "name": "colour", "workflow": graphs.colour(255), "visibility": "everybody",
        "inputs": [{"name": "colour", "node": "1", "input": "color"}],
    }  # fmt: skip
    saved = owner.post("/apps/", json=app).json()
    grid = {"colour": [number * 1000 for number in range(12)]}
    batch = artist.post(f"/apps/{saved['app']}/batch", json={"grid": grid}).json()
    path = f"/workflows/batches/{batch['batch_id']}"
    wait_for(lambda: artist.get(path).json()["status"] == "completed", seconds=60, what="the batch's end")
    assert artist.get(path).json()["counts"]["completed"] == 12
    sheet = Image.open(io.BytesIO(artist.get(f"{path}/contact-sheet").content))
    assert sheet.size == (4 * 264 + 8, 3 * 282 + 8)
