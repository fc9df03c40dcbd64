"""A real browser for tests: Debian's Chromium, driven by playwright.

One for each file of tests, not for the whole run: while playwright's loop runs in a thread, Django refuses
to touch the database there. So tests with a `browser` talk to the stack, never to the database themselves.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """playwright's browser: `new_context()`, `new_page()`."""
    if CHROMIUM is None:
        pytest.skip("no chromium is installed (Debian: apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page in a window of its own: no cookies of other tests. What it complains of fails the test."""
    context = browser.new_context()
    opened = context.new_page()
    mistakes: list[str] = []
    opened.on("pageerror", lambda error: mistakes.append(f"{opened.url}: {error.stack or error}"))
    yield opened
    context.close()
    assert mistakes == []


def serious_faults(page: Any) -> str:
    """What axe-core finds on the page that keeps somebody out; "" where there is nothing."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    return "\n".join(
        f"{fault['id']} ({fault['impact']}): {node['html'][:200]} {node['failureSummary']}"
        for fault in axe.Axe().run(page).response["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    )
