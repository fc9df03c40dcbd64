"""The landing page: HTML for browsers, JSON for scripts, and the order of the interactive documentation."""

from __future__ import annotations

from io import BytesIO

import pytest
import requests
from PIL import Image

from comfyserve.api.docs import schema
from tests.factories import Api

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


def test_a_browser_gets_a_page_whose_links_all_work(stack) -> None:
    page = requests.get(stack.url, headers={"Accept": BROWSER}, timeout=60)
    assert page.status_code == 200
    assert page.headers["Content-Type"].startswith("text/html")
    assert "Accept" in page.headers["Vary"]
    links = requests.get(stack.url, timeout=60).json()["links"]
    for link in links:
        assert f'href="{link["url"]}"' in page.text
        followed = requests.get(stack.url + link["url"], headers={"Accept": BROWSER}, timeout=60)
        assert followed.status_code == 200, link


@pytest.mark.parametrize("accept", ["text/html; charset=utf-8", 'Text/HTML;charset="UTF-8";q=0.9, */*;q=0.1'])
def test_html_may_be_accepted_with_parameters(stranger: Api, accept: str) -> None:
    assert stranger.get("/", headers={"Accept": accept}).headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("accept", [None, "*/*", "application/json"])
def test_a_script_gets_json(stranger: Api, accept: str | None) -> None:
    answer = stranger.get("/", headers={"Accept": accept} if accept else {})
    assert answer.status_code == 200
    assert answer.json()["name"] == "ComfyServe"
    assert {"name": "API documentation", "url": "/docs", "about": "try every call in the browser"} in (
        answer.json()["links"]
    )


def test_flower_is_there_where_its_address_is_known(stranger: Api, settings) -> None:
    assert "Flower" not in [link["name"] for link in stranger.get("/").json()["links"]]
    settings.FLOWER_URL = "http://127.0.0.1:5555/flower/"
    link = next(link for link in stranger.get("/").json()["links"] if link["name"] == "Flower")
    assert link["url"] == "http://127.0.0.1:5555/flower/"


def test_other_methods_are_refused_in_the_usual_shape(stranger: Api) -> None:
    assert stranger.post("/").json()["error"] == "method_not_allowed"


def test_the_icon_is_one(stranger: Api) -> None:
    answer = stranger.get("/favicon.ico")
    assert answer["Content-Type"] == "image/x-icon"
    with Image.open(BytesIO(answer.content)) as image:
        assert image.format == "ICO"


def test_operations_are_in_the_order_of_the_reference() -> None:
    made = schema()
    assert [tag["name"] for tag in made["tags"]][:5] == ["auth", "workflows", "apps", "models", "files"]
    paths = list(made["paths"])
    assert paths[:5] == ["/auth/register", "/auth/login", "/auth/refresh", "/auth/me", "/auth/logout"]
    workflows = [path for path in paths if path.startswith("/workflows")]
    assert workflows[:3] == ["/workflows/execute", "/workflows/{execution_id}", "/workflows/"]
    tags = {tag for path in made["paths"].values() for each in path.values() for tag in each["tags"]}
    assert tags <= {tag["name"] for tag in made["tags"]}
