"""ComfyUI's own front end in a browser, with ComfyUI's routes of this service behind it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from script.harness import graphs
from script.harness.waiting import wait_for
from tests.doors.caddy import FRONT_END, caddy

pytestmark = pytest.mark.timeout(400)  # one test installs a front end

# What a ComfyUI without saved files and without the package of templates does not have either.
MISSING = {
    "/user.css",
    "/templates/index.json",
    "/templates/index_logo.json",
    "/api/userdata",
    "/api/userdata/comfy.templates.json",
}
RUN = """
async (prompt) => {
    const app = window.app;
    await app.loadApiJson(prompt, "tests");
    await app.queuePrompt(0);
}
"""
SAVE = """
async () => {
    const api = window.comfyAPI.api.api;
    await api.storeUserData("workflows/kept.json", { nodes: [] });
    await api.storeSetting("Comfy.Locale", "en");
    const files = await api.listUserDataFullInfo("workflows");
    return files.map((file) => file.path);
}
"""
# The queue, the history and one job as newer front ends read them, which check their shapes.
JOBS = """
async () => {
    const api = window.comfyAPI.api.api;
    const [history, queue] = [await api.getHistory(10), await api.getQueue()];
    const detail = await api.getJobDetail(history[0].id);
    return { history, queue, detail };
}
"""
NEWER = "comfyui-frontend-package==1.58.1"
OpenFrontEnd = Callable[[Path], AbstractContextManager[tuple[Any, Any]]]  # yields (person, page)


@pytest.fixture(scope="session")
def newer_front_end(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("front-end")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), NEWER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    if done.returncode:
        pytest.skip(f"PyPI gives no {NEWER}: {done.stderr[-300:]}")
    return folder / "comfyui_frontend_package" / "static"


@pytest.fixture
def open_front_end(gpu_worker: Any, browser: Any, tmp_path: Path) -> OpenFrontEnd:
    """Opens the front end at a folder in the browser, with the routes of this service behind it."""

    @contextmanager
    def opened(files: Path) -> Iterator[tuple[Any, Any]]:
        person = gpu_worker.person()
        key = person.post("/auth/keys", {"name": "front end", "scope": "comfyui"}).json()["key"]
        server = f"127.0.0.1:{gpu_worker.port}"
        page = browser.new_page()
        answers: list[tuple[int, str]] = []
        page.on("response", lambda got: answers.append((got.status, urlsplit(got.url).path)))
        with caddy(FRONT_END, folder=tmp_path, key=key, server=server, files=files) as port:
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_function("window.app?.graph && window.app.vueAppReady", timeout=120_000)
            yield person, page
        page.close()
        assert {path for status, path in answers if status >= 400} <= MISSING

    return opened


def test_a_newer_front_end_shows_the_jobs(newer_front_end: Path, open_front_end: OpenFrontEnd):
    """One whose queue and history are `/api/jobs`."""
    with open_front_end(newer_front_end) as (person, page):
        page.evaluate(RUN, graphs.colour(0x00FF00))
        wait_for(lambda: person.get("/comfyui/history").json(), seconds=60, what="the prompt")
        shown = page.evaluate(JOBS)
    [job] = shown["history"]
    assert shown["queue"] == {"Running": [], "Pending": []}
    assert (job["id"], job["status"]) == (shown["detail"]["id"], "completed")
    [picture] = shown["detail"]["outputs"]["2"]["images"]
    assert job["preview_output"]["filename"] == picture["filename"]


def test_the_front_end_runs_a_workflow_and_keeps_files(comfyui: Any, open_front_end: OpenFrontEnd):
    [files] = Path(comfyui.install).glob("venv/lib/python3*/site-packages/comfyui_frontend_package/static")
    with open_front_end(files) as (person, page):
        page.evaluate(RUN, graphs.colour(0x00FF00))
        [entry] = wait_for(
            lambda: list(person.get("/comfyui/history").json().values()), seconds=60, what="the prompt"
        )
        assert entry["status"]["completed"]
        assert "kept.json" in page.evaluate(SAVE)
    assert person.get("/comfyui/settings").json()["Comfy.Locale"] == "en"
