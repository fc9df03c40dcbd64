"""The page of apps in a real browser: one user saves an app, another runs it there."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image

from script.harness import graphs
from script.harness.waiting import wait_for
from tests.browser import serious_faults


def shoot(page, name):
    """A picture for whoever wants to look, in the folder SCREENSHOTS."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


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
    page.wait_for_selector(".history button", timeout=60_000)
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


def log_in(page, url, person):
    page.goto(url)
    page.fill("[name=email]", person.email)
    page.fill("[name=password]", person.password)
    page.press("[name=password]", "Enter")


def app_with_a_picture(owner):
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": uploaded(owner)}},
        "2": {"class_type": "ImageScale", "inputs": {
            "image": ["1", 0], "upscale_method": "area", "width": 32, "height": 32, "crop": "disabled",
        }},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "scaled"}},
    }  # fmt: skip
    inputs = [
        {"name": "picture", "node": "1", "input": "image"},
        {"name": "width", "node": "2", "input": "width", "minimum": 8, "maximum": 64, "step": 8},
    ]
    app = {"name": "scale", "workflow": workflow, "visibility": "everybody", "inputs": inputs}
    answer = owner.post("/apps/", json=app)
    assert answer.status_code == 201, answer.text
    return answer.json()["app"]


def png(size):
    content = io.BytesIO()
    Image.new("RGB", size, "teal").save(content, "PNG")
    return content.getvalue()


def uploaded(person):
    answer = person.post("/files/upload", files={"file": ("a.png", png((8, 8)), "image/png")})
    return answer.json()["file_id"]


def test_a_picture_is_previewed_and_a_slider_moves_its_number(gpu_worker, page):
    owner, artist = gpu_worker.person("scale-owner"), gpu_worker.person("scale-artist")
    log_in(page, f"{gpu_worker.url}/apps/{app_with_a_picture(owner)}", artist)
    page.wait_for_selector("[name=picture]")
    chosen = {"name": "b.png", "mimeType": "image/png", "buffer": png((40, 20))}
    page.set_input_files("[name=picture]", chosen)
    page.wait_for_selector(".chosen:not([hidden])")
    assert page.locator(".chosen").evaluate("image => image.decode().then(() => image.naturalWidth)") == 40
    page.focus("input[type=range]")
    page.keyboard.press("End")
    assert page.input_value("[name=width]") == "64"
    page.fill("[name=width]", "16")
    assert page.input_value("input[type=range]") == "16"
    page.click("button.main")
    page.wait_for_selector(".history button", timeout=60_000)
    shown = page.locator(".result img")
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") == 16
    page.set_input_files("[name=picture]", [])
    page.click("text=Use these inputs again")
    page.wait_for_selector(".chosen:not([hidden])")
    assert serious_faults(page) == ""
    for name, size, scheme in (("desktop", (1280, 900), "light"), ("phone", (390, 844), "dark")):
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.emulate_media(color_scheme=scheme)
        assert serious_faults(page) == ""
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        shoot(page, f"apps-{name}-{scheme}")


def test_a_token_that_expires_is_renewed_without_losing_the_form(gpu_worker, page):
    owner, artist = gpu_worker.person("token-owner"), gpu_worker.person("token-artist")
    log_in(page, f"{gpu_worker.url}/apps/{app_with_a_picture(owner)}", artist)
    page.fill("[name=width]", "24")
    # What the page has in memory is as good as expired; the refresh token is not.
    page.route("**/run", lambda route: route.fulfill(status=401, json={"message": "expired"}), times=1)
    page.click("button.main")
    page.wait_for_selector(".history button", timeout=60_000)
    assert page.input_value("[name=width]") == "24"
    assert page.locator("dialog").count() == 0

    gpu_worker.sql(
        "UPDATE accounts_session SET ended_at = now(), end_reason = 'logout' FROM accounts_user u"
        " WHERE u.id = user_id AND u.email = %s",
        artist.email,
    )
    page.fill("[name=width]", "40")
    page.click("button.main")
    page.wait_for_selector("dialog [name=email]")
    assert serious_faults(page) == ""
    page.fill("dialog [name=email]", artist.email)
    page.fill("dialog [name=password]", artist.password)
    page.press("dialog [name=password]", "Enter")
    page.wait_for_selector(".history li:nth-child(2) button", timeout=60_000)
    assert page.input_value("[name=width]") == "40"
    assert page.locator("dialog").count() == 0


def test_by_keyboard_alone(gpu_worker, page):
    owner, artist = gpu_worker.person("keys-owner"), gpu_worker.person("keys-artist")
    address = app_with_a_picture(owner)

    def tab_to(selector):
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"{selector} is not reached by Tab")

    page.goto(f"{gpu_worker.url}/apps/")
    page.wait_for_selector("[name=email]")
    tab_to("[name=email]")
    page.keyboard.type(artist.email)
    page.keyboard.press("Tab")
    page.keyboard.type(artist.password)
    page.keyboard.press("Enter")
    page.wait_for_selector(f".gallery a[href='/apps/{address}']")
    tab_to(f".gallery a[href='/apps/{address}']")
    page.keyboard.press("Enter")
    page.wait_for_selector("[name=width]")
    tab_to("input[type=range]")
    page.keyboard.press("Home")
    tab_to("button.main")
    page.keyboard.press("Enter")
    page.wait_for_selector(".history button", timeout=60_000)
    tab_to(".result button")
    page.keyboard.press("Enter")
    assert page.input_value("[name=width]") == "8"
