"""Take the pictures of the console in docs/images, of the real thing.

    .venv/bin/python -m docs.screenshots [folder]

A PostgreSQL, Valkey, web process, worker and ComfyUI of its own, with small models. Every picture that the
console shows was made by that ComfyUI; only the past hours are filled with copies of those rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.services import Services, say
from script.harness import graphs
from script.harness.stack import Person, Stack
from script.local.demo_workflows import landscape
from tests.browser import CHROMIUM

IMAGES = Path(__file__).parent / "images"
DESK: Any = {"width": 1440, "height": 1000}
PHONE: Any = {"width": 400, "height": 860}
HEAVY = 250_000  # bytes: beyond that a picture gets fewer colours
LIST = "/admin/workflows/execution/"

# What ended before: copies of what really ran, each some minutes earlier than the next.
PAST = """
    INSERT INTO workflows_execution
    SELECT copy.* FROM (
        SELECT *, row_number() OVER (ORDER BY created_at) AS n, count(*) OVER () AS of
        FROM workflows_execution WHERE completed_at IS NOT NULL) original, generate_series(1, 260) i,
        LATERAL (SELECT now() - make_interval(mins => 20 + 5 * i + (i * i) % 7, secs => 37 * (i % 11)) AS at)
            t,
        LATERAL jsonb_populate_record(NULL::workflows_execution, to_jsonb(original) || jsonb_build_object(
            'id', gen_random_uuid(), 'retried_from_id', NULL,
            'created_at', at - make_interval(secs => 5 + i % 40), 'started_at', at,
            'claimed_at', at, 'completed_at', at + make_interval(secs => 3 + i % 9))) copy
    WHERE i % of = n - 1 AND (i * 7 % 24) NOT IN (3, 4)
"""
GRAPHS_OF_PAST = """
    INSERT INTO workflows_graph (execution_id, submitted, prompt, error_details)
    SELECT e.id, g.submitted, g.prompt, g.error_details FROM workflows_execution e
    JOIN LATERAL (SELECT g.* FROM workflows_graph g JOIN workflows_execution o ON o.id = g.execution_id
        WHERE o.kind = e.kind AND o.status = e.status LIMIT 1) g ON true
    WHERE NOT EXISTS (SELECT FROM workflows_graph x WHERE x.execution_id = e.id)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=IMAGES)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with Services() as services:
        stack = services.start_stack()
        comfyui = services.start_comfyui()
        stack.start_worker(comfyui_url=comfyui.url, env={"COMFYUI_NAME": "gpu-1"})
        say("executions of several users")
        failed, running = _fill(stack)
        _photograph(stack, folder, failed=failed, running=running)


def _fill(stack: Stack) -> tuple[str, str]:
    """Executions in every state; the ids of one that failed and of the one that runs."""
    mira, jonas, aylin = (stack.person(name) for name in ("mira", "jonas", "aylin"))
    landscapes = [
        person.execute(landscape(seed=seed), metadata={"project": "hills"})
        for seed, person in enumerate([mira, aylin, jonas, aylin], 11)
    ]
    gone = jonas.execute(landscape(seed=99), priority="low")
    jonas.post(f"/workflows/{gone}/cancel")
    broken = graphs.txt2img(steps=4)
    broken["8"] = {
        "class_type": "TestFail",
        "_meta": {"title": "Sharpen faces"},
        "inputs": {"image": ["6", 0], "message": "no face was found in the picture"},
    }
    broken["7"]["inputs"]["images"] = ["8", 0]
    failed = jonas.execute(broken)
    jonas.result(failed, seconds=120)
    for person, execution in zip([mira, aylin, jonas, aylin], landscapes, strict=True):
        person.result(execution, seconds=120)
    stack.sql(PAST)
    stack.sql(GRAPHS_OF_PAST)
    stack.sql("ANALYZE")
    last = mira.execute(landscape(seed=20))
    mira.result(last, seconds=60)
    noor = stack.person("noor")
    running = noor.execute(graphs.txt2img(steps=600))
    for number, (person, priority) in enumerate([(mira, "high"), (jonas, "normal"), (jonas, "low")]):
        person.execute(landscape(seed=200 + number), priority=priority)
    # The stack numbers its people.
    stack.sql("UPDATE accounts_user SET username = regexp_replace(username, '[0-9]+$', '')")
    stack.sql("UPDATE accounts_user SET email = username || '@example.com'")
    return failed, running


def _photograph(stack: Stack, folder: Path, *, failed: str, running: str) -> None:
    from playwright.sync_api import sync_playwright

    operator = stack.person("operator")
    stack.sql(
        "UPDATE accounts_user SET is_staff = true, is_superuser = true WHERE email = %s", operator.email
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(viewport=DESK, device_scale_factor=1)
        page = context.new_page()
        _log_in(page, stack.url, operator)
        shoot = _camera(page, stack.url, folder)
        _wait_for_progress(stack, running)
        shoot("console-dashboard", "/admin/", full=True)
        shoot("console-executions", LIST)
        shoot("console-running", f"{LIST}{running}/change/")
        shoot("console-failed", f"{LIST}{failed}/change/", full=True)
        [[done]] = stack.sql(
            "SELECT execution_id FROM workflows_output JOIN workflows_execution e ON e.id = execution_id"
            " ORDER BY e.created_at DESC LIMIT 1"
        )
        page.emulate_media(color_scheme="dark")
        shoot("console-execution", f"{LIST}{done}/change/")
        page.set_viewport_size(PHONE)
        shoot("console-phone", "/admin/")
        browser.close()


def _log_in(page: Any, url: str, operator: Person) -> None:
    page.goto(f"{url}/admin/")
    page.fill("#id_username", operator.email)
    page.fill("#id_password", operator.password)
    page.press("#id_password", "Enter")
    page.wait_for_selector("#dashboard")


def _wait_for_progress(stack: Stack, execution: str) -> None:
    """Somewhere in the middle."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        [[status, percentage]] = stack.sql(
            "SELECT status, percentage FROM workflows_execution WHERE id = %s", execution
        )
        if status == "running" and percentage > 20:
            return
        time.sleep(0.2)
    raise AssertionError("it does not run")


def _camera(page: Any, url: str, folder: Path) -> Callable[..., None]:
    def shoot(name: str, path: str, *, full: bool = False) -> None:
        page.goto(url + path)
        page.wait_for_load_state("networkidle")
        page.evaluate("document.fonts.ready")
        target = folder / f"{name}.png"
        if full:  # a window as tall as the page, so that what is fixed to its edges stays there
            size = page.viewport_size
            tall = page.evaluate("document.documentElement.scrollHeight")
            page.set_viewport_size({**size, "height": max(size["height"], tall)})
        page.screenshot(path=target)
        if full:
            page.set_viewport_size(size)
        with Image.open(target) as taken:
            plain = taken.convert("RGB")
        plain.save(target, optimize=True)
        if target.stat().st_size > HEAVY:
            plain.quantize(256).save(target, optimize=True)
        say(f"{target} ({target.stat().st_size // 1024} kB)")

    return shoot


if __name__ == "__main__":
    main()
