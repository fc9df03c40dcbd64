"""What all pages of the console share: access, the sidebar, security headers."""

from __future__ import annotations

import re

import pytest
from django.test import Client

from tests.console.conftest import client_of
from tests.factories import PASSWORD, make_user


def sidebar_of(page: str) -> list[str]:
    part = page[page.index('id="nav-sidebar-apps"') :]
    return re.findall(r"<li>.*?<span>(.*?)</span>", part, re.DOTALL)


def test_the_sidebar_shows_pages_of_registered_models(console):
    shown = sidebar_of(console.get("/admin/").content.decode())
    assert {"Dashboard", "Webhook deliveries", "Users", "API keys", "API documentation"} <= set(shown)


def test_the_sidebar_leaves_out_what_one_may_not_see(db):
    client = client_of(make_user("clerk", is_staff=True))
    assert sidebar_of(client.get("/admin/").content.decode()) == ["Dashboard", "API documentation"]


def test_flower_is_linked_where_its_address_is_known(console, settings):
    assert "Flower" not in sidebar_of(console.get("/admin/").content.decode())
    settings.FLOWER_URL = "/flower/"
    page = console.get("/admin/").content.decode()
    assert "Flower" in sidebar_of(page)
    assert 'href="/flower/"' in page


@pytest.mark.django_db
def test_others_are_denied_access():
    assert Client().get("/admin/")["Location"].startswith("/admin/login/")
    assert client_of(make_user("alice")).get("/admin/").status_code == 302


def test_pages_run_no_script_but_our_own_files(console):
    answer = console.get("/admin/")
    policy = answer["Content-Security-Policy"]
    [scripts] = [part for part in policy.split("; ") if part.startswith("script-src")]
    assert "'unsafe-inline'" not in scripts
    assert not re.search(r"<script(?![^>]*\ssrc=)", answer.content.decode())
    assert all(src.startswith("/") for src in re.findall(r'(?:src|href)="([^"]+)"', answer.content.decode()))


@pytest.mark.django_db
def test_a_login_on_the_login_page_itself_leads_to_the_dashboard():
    operator = make_user("operator", password=PASSWORD, is_staff=True)
    form = {"username": operator.email, "password": PASSWORD}
    assert Client().post("/admin/login/", form)["Location"] == "/admin/"
