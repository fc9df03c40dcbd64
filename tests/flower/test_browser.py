"""Flower and the landing page in an operator's browser."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from script.harness import graphs
from script.harness.stack import Stack
from tests.browser import serious_faults
from tests.flower.conftest import AUTH, FlowerServer

pytestmark = pytest.mark.timeout(400)

SHOTS = os.environ.get("SCREENSHOTS")  # a folder to keep pictures in, for whoever wants to look


def shoot(page: Any, name: str) -> None:
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


@pytest.fixture
def operator(browser: Any) -> Iterator[Any]:
    context = browser.new_context(http_credentials={"username": AUTH[0], "password": AUTH[1]})
    yield context.new_page()
    context.close()


def test_an_operator_sees_what_waits_and_runs_and_cancels_it(
    bare_stack: Stack, comfyui: Any, flower: FlowerServer, operator: Any
) -> None:
    stack, ana = bare_stack, bare_stack.person("ana")
    done = ana.execute(graphs.colour(1))
    stack.start_worker("gpu", comfyui_url=comfyui.url, env={"COMFYUI_NAME": "gpu-0"})
    flower.wait_for_state(done, "SUCCESS")
    running, _, waiting = (ana.execute(graphs.sleep(120.0, seed=seed)) for seed in range(3))
    flower.wait_for_state(running, "STARTED")
    flower.wait_for_state(waiting, "PENDING")

    operator.goto(f"{flower.url}/tasks")
    operator.wait_for_selector(f"#tasks-table >> text={running}")
    shoot(operator, "flower-tasks")
    operator.goto(f"{flower.url}/workers")
    operator.wait_for_selector("#workers-table >> text=gpu-gpu-0")
    shoot(operator, "flower-workers")
    operator.goto(f"{flower.url}/worker/gpu-gpu-0@{socket.gethostname()}")
    operator.wait_for_selector("#workername")
    assert operator.locator("text=Shut Down").count() == 0
    shoot(operator, "flower-worker")
    operator.goto(f"{flower.url}/broker")
    cells = operator.locator("tbody tr", has_text="gpu").first.inner_text().split()
    assert cells[:2] == ["gpu", "2"]
    shoot(operator, "flower-broker")

    for id_, button in ((waiting, "#task-revoke"), (running, "#task-terminate")):
        operator.goto(f"{flower.url}/task/{id_}")
        shoot(operator, f"flower{button.replace('#', '-')}")
        operator.click(button)
        operator.wait_for_selector(f"text=Cancelled execution '{id_}'")
        shoot(operator, f"flower{button.replace('#', '-')}-done")
        assert ana.get(f"/workflows/{id_}").json()["status"] == "cancelled"
        flower.wait_for_state(id_, "REVOKED")
        operator.goto(f"{flower.url}/task/{id_}")
        assert operator.locator(button).count() == 0


def test_the_front_page_links_to_the_documentation(stack: Stack, page: Any) -> None:
    page.goto(stack.url)
    assert serious_faults(page) == ""
    shoot(page, "home")
    page.set_viewport_size({"width": 380, "height": 700})
    shoot(page, "home-phone")
    page.set_viewport_size({"width": 1280, "height": 900})
    page.click("text=API documentation")
    page.wait_for_selector("text=Submit, follow, cancel, fetch")
    assert page.locator("text=The first call").count() == 1
    sections = page.locator("h3.opblock-tag").all_inner_texts()
    assert [text.split()[0] for text in sections][:5] == ["auth", "workflows", "apps", "models", "files"]
    shoot(page, "swagger")
