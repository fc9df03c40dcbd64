"""The console in a real browser: live updates, keyboard, phone, dark mode, accessibility."""

from __future__ import annotations

import re
from typing import Any

import pytest

from script.harness import graphs
from tests.browser import serious_faults

LIST = "/admin/workflows/execution/"
PHONE = {"width": 390, "height": 844}
EVIL = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def _operator() -> dict[str, Any]:
    return {}


@pytest.fixture
def console(gpu_worker, page, _operator):
    """The stack, an operator who is logged in, and how to get around."""
    person = _operator.get("person")
    if person is None:
        person = _operator["person"] = gpu_worker.person("operator")
        gpu_worker.sql(
            "UPDATE accounts_user SET is_staff = true, is_superuser = true WHERE email = %s", person.email
        )
    opened = Console(gpu_worker, page, person, _operator)
    yield opened
    # What a failed test left running would keep the next one waiting.
    for user, execution in opened.runs:
        user.post(f"/workflows/{execution}/cancel")


class Console:
    def __init__(self, stack: Any, page: Any, person: Any, kept: dict[str, Any]) -> None:
        self.stack, self.page, self.person, self.url = stack, page, person, stack.url
        self.runs: list[tuple[Any, str]] = []
        if "cookies" in kept:
            page.context.add_cookies(kept["cookies"])
            return
        page.goto(f"{self.url}/admin/")
        page.fill("#id_username", person.email)
        page.fill("#id_password", person.password)
        page.press("#id_password", "Enter")
        page.wait_for_selector("#dashboard")
        kept["cookies"] = page.context.cookies()

    def open(self, path: str) -> Any:
        self.page.goto(self.url + path)
        return self.page

    def long_run(self) -> tuple[Any, str]:
        """A user with an execution that runs until somebody cancels it."""
        user = self.stack.person("artist")
        self.runs.append((user, user.execute(graphs.sleep(150, steps=150))))
        return self.runs[-1]

    def serious_faults(self) -> str:
        return serious_faults(self.page)


def tab_to(page: Any, text: str) -> None:
    """Reach the element by the Tab key alone."""
    for _ in range(120):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()") == text:
            return
    raise AssertionError(f"no way to {text!r} by keyboard")


def test_a_run_is_followed_cancelled_and_retried(console):
    user, execution = console.long_run()
    page = console.open("/admin/")
    # The dashboard shows it without being loaded again.
    page.evaluate("window.same = true")
    page.wait_for_selector(f"#runs-{execution}", timeout=60_000)
    assert page.evaluate("window.same")
    assert console.serious_faults() == ""
    # So does the list.
    console.open(LIST)
    bar = f"document.querySelector('#state-{execution} progress')?.value"
    page.wait_for_function(f"(window.first ??= {bar}) < {bar}", timeout=60_000)
    page.click(f"a:has([title='{execution}'])")
    page.wait_for_function("document.querySelector('#live progress')?.value >= 2", timeout=60_000)
    page.wait_for_selector(".cs-node.cs-running")
    page.wait_for_selector(".cs-log >> text=Running TestSleep")
    assert console.serious_faults() == ""
    page.click("text=Cancel")
    page.wait_for_selector("text=Yes, cancel")
    assert console.serious_faults() == ""
    page.click("text=Yes, cancel")
    page.wait_for_selector("#live .cs-badge >> text=cancelled")
    page.wait_for_selector(".cs-log >> text=Cancelled by an operator")
    page.click("text=Retry")
    page.click("text=Yes, retry")
    page.wait_for_selector("text=Retried as")
    [[again]] = console.stack.sql("SELECT id FROM workflows_execution WHERE retried_from_id = %s", execution)
    assert user.post(f"/workflows/{again}/cancel").status_code == 200


def test_by_keyboard_alone(console):
    _, execution = console.long_run()
    page = console.open(f"{LIST}{execution}/change/")
    tab_to(page, "Cancel")
    page.evaluate("document.activeElement.seen_before = true")
    page.wait_for_function(
        "!document.querySelector('#do-cancel').seen_before"
    )  # the page has refreshed itself
    assert page.evaluate("document.activeElement.textContent.trim()") == "Cancel"
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Yes, cancel")
    tab_to(page, "Yes, cancel")
    page.keyboard.press("Enter")
    page.wait_for_selector("#live .cs-badge >> text=cancelled")
    console.open(LIST)
    tab_to(page, "Filters")
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.name === 'status__exact'")
    for _ in range(10):
        if page.evaluate("document.activeElement.value") == "cancelled":
            break
        page.keyboard.press("ArrowDown")
    tab_to(page, "Apply Filters")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("status__exact=cancelled"))
    assert page.locator(f"#state-{execution}").is_visible()


@pytest.mark.parametrize("look", ["phone", "dark"])
def test_pages_on_a_phone_and_in_the_dark(console, look):
    person = console.stack.person("artist")
    done = person.execute(graphs.txt2img(steps=2, text=EVIL))
    assert person.result(done)["status"] == "completed"
    page = console.page
    if look == "phone":
        page.set_viewport_size(PHONE)
    else:
        page.emulate_media(color_scheme="dark")
    for path in ("/admin/", LIST, f"{LIST}{done}/change/"):
        console.open(path)
        page.wait_for_function("document.readyState === 'complete'")
        assert page.evaluate("document.documentElement.classList.contains('dark')") == (look == "dark")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert console.serious_faults() == "", path
    page.wait_for_function("document.querySelector('.cs-pictures img').naturalWidth === 64")
    if look == "phone":
        page.locator("[aria-label='Show or hide the navigation']:visible").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#nav-sidebar >> text=Audit log")
    assert page.title() != "owned"


def test_the_login_page_is_public(gpu_worker, page):
    page.goto(f"{gpu_worker.url}/admin/login/")
    assert Console.serious_faults(type("Page", (), {"page": page})()) == ""
