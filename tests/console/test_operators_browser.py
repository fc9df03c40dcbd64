"""Operators in a real browser: pausing a worker, loading a model, and read-only staff."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from script.harness.stack import Person, Stack
from script.harness.waiting import wait_for
from tests.browser import serious_faults

MODEL = "tiny-sd15.safetensors"
MEMBER = """
    INSERT INTO accounts_user_groups (user_id, group_id)
    SELECT u.id, g.id FROM accounts_user u, auth_group g WHERE u.email = %s AND g.name = %s
"""


@pytest.fixture
def log_in(browser: Any, gpu_worker: Stack) -> Iterator[Callable[[str], tuple[Any, Person]]]:
    """Gives a page of the console, logged in as a new member of the group, and who that is."""
    contexts: list[Any] = []
    mistakes: list[str] = []

    def log_in(group: str) -> tuple[Any, Person]:
        person = gpu_worker.person("operator")
        gpu_worker.sql("UPDATE accounts_user SET is_staff = true WHERE email = %s", person.email)
        gpu_worker.sql(MEMBER, person.email, group)
        context = browser.new_context(base_url=gpu_worker.url)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: mistakes.append(str(error)))
        page.goto("/admin/login/?next=/admin/workflows/worker/")
        page.fill("input[name=username]", person.email)
        page.fill("input[name=password]", person.password)
        page.click("button[type=submit]")
        page.wait_for_url("**/admin/workflows/worker/")
        return page, person

    yield log_in
    gpu_worker.sql("UPDATE workflows_worker SET wish = 'work'")  # a test that failed may have left it paused
    for context in contexts:
        context.close()
    assert mistakes == []


def worker_of(person: Person) -> Any:
    """The one that lives."""
    return next(row for row in person.get("/workers/").json() if row["status"] not in ("stopped", "silent"))


def test_a_form_and_its_page_are_public(log_in: Any) -> None:
    page, _ = log_in("Operators")
    page.goto("/admin/models_registry/model/download/")
    assert serious_faults(page) == ""
    page.goto("/admin/accounts/auditentry/")
    page.click("#result_list tbody a >> nth=0")
    page.wait_for_selector("text=Object id")
    assert serious_faults(page) == ""


def test_a_worker_is_paused_and_resumed(log_in: Any) -> None:
    page, person = log_in("Operators")
    name = worker_of(person)["name"]
    page.click(f"#result_list >> text='{name}'")
    page.click(".cs-button:text-is('Pause')")
    page.click(".cs-button:text-is('Yes, pause')")
    page.wait_for_selector("text=1 paused")
    page.wait_for_selector(".cs-headline .cs-badge:text-is('paused')")
    wait_for(lambda: worker_of(person)["status"] == "paused", seconds=60, what="the worker to obey")
    page.click(".cs-button:text-is('Resume')")
    page.click(".cs-button:text-is('Yes, resume')")
    page.wait_for_selector(".cs-headline .cs-badge:text-is('active')")
    wait_for(lambda: worker_of(person)["status"] == "active", seconds=60, what="the worker to obey")


def test_a_model_is_loaded(log_in: Any, gpu_worker: Stack) -> None:
    page, person = log_in("Operators")
    # A worker that another test has stopped counts as its model's host for half a minute.
    gpu_worker.sql(
        "UPDATE models_registry_host SET reported_at = reported_at - interval '1 day' WHERE name <> %s",
        worker_of(person)["name"],
    )
    wait_for(lambda: person.get(f"/models/{MODEL}").status_code == 200, seconds=60, what="the model")
    person.post(f"/models/{MODEL}/unload")
    page.goto("/admin/models_registry/model/?q=tiny-sd15")
    page.click(f"#result_list >> text='{MODEL}'")
    page.click(".cs-button:text-is('Load')")
    page.click(".cs-button:text-is('Yes, load')")
    page.wait_for_selector("text=1 loaded")
    page.wait_for_selector(".cs-headline .cs-badge:text-is('loaded')")
    assert person.get(f"/models/{MODEL}").json()["is_loaded"]


def test_a_read_only_operator_is_offered_nothing(log_in: Any) -> None:
    page, person = log_in("Operators (read only)")
    page.click(f"#result_list >> text='{worker_of(person)['name']}'")
    page.wait_for_selector("text=Current work")
    assert page.locator(".cs-buttons button").count() == 0
    assert person.post(f"/workers/{worker_of(person)['name']}/pause").status_code == 403
