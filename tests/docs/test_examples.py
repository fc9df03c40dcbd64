"""docs/examples, as a user runs them: the page in a real browser, the scripts as programs."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from script.harness import graphs
from script.local.paths import ROOT

EXAMPLES = ROOT / "docs" / "examples"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def pages():
    """The examples on a web server of their own: another origin than the API's."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(EXAMPLES)))
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def open_to_browsers(gpu_worker):
    gpu_worker.start_web(env={"CORS_ALLOWED_ORIGINS": "*"})
    yield gpu_worker
    gpu_worker.stop_web()


def token_of(person) -> str:
    return person.session.headers["Authorization"].removeprefix("Bearer ")


def test_the_page_follows_a_workflow_and_shows_previews_and_result(open_to_browsers, pages, page):
    person = open_to_browsers.person()
    page.goto(f"{pages}/follow.html")
    page.fill("#server", open_to_browsers.url)
    page.fill("#token", token_of(person))
    page.fill("#workflow", json.dumps(graphs.txt2img(steps=300, seed=77)))
    page.click("button")
    # Attached is enough: it is hidden again as soon as the run has ended.
    page.wait_for_selector("#preview[src^='data:image/jpeg']", state="attached", timeout=60_000)
    page.wait_for_function("document.querySelector('#outputs img')?.naturalWidth === 64", timeout=60_000)
    page.wait_for_function("document.getElementById('status').textContent === 'completed'")
    page.wait_for_function("stream.readyState === 2")  # closed by the last event, and not opened again
    assert page.evaluate("document.getElementById('progress').value") == 100
    assert "Running Sampler" in page.text_content("#log")


def test_the_page_says_why_a_workflow_was_refused(open_to_browsers, pages, page):
    person = open_to_browsers.person()
    page.goto(f"{pages}/follow.html")
    page.fill("#server", open_to_browsers.url)
    page.fill("#token", token_of(person))
    page.fill("#workflow", "{}")
    page.click("button")
    page.wait_for_function("document.getElementById('status').textContent === 'not submitted'")
    assert page.text_content("#log").strip()


def test_the_script_follows_a_workflow_and_saves_its_picture(gpu_worker, tmp_path: Path):
    person = gpu_worker.person()
    (tmp_path / "workflow.json").write_text(json.dumps(graphs.colour(0x654321)))
    done = subprocess.run(
        [sys.executable, EXAMPLES / "follow.py", gpu_worker.url, token_of(person), "workflow.json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Workflow completed successfully" in done.stdout
    assert [path.suffix for path in tmp_path.glob("*.png")] == [".png"]
