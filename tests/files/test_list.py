"""GET /files/."""

from __future__ import annotations

import pytest
import requests

from tests.files.conftest import assert_error, uploaded


@pytest.fixture
def three(newcomer) -> list[str]:
    return [uploaded(newcomer, f"content {n}".encode(), f"{n}.txt") for n in range(3)]


def ids(answer: requests.Response) -> list[str]:
    return [file["file_id"] for file in answer.json()]


def test_it_lists_the_users_files_latest_first(newcomer, bob, three):
    uploaded(bob, b"not hers")
    answer = newcomer.get("/files/")
    assert ids(answer) == three[::-1]
    assert answer.headers["X-Total-Count"] == "3"
    links = {"download_url": "", "thumbnail_url": ""}  # on S3 signed anew each second
    assert answer.json()[0] | links == newcomer.get(f"/files/{three[2]}/info").json() | links


def test_it_answers_without_the_slash_too(newcomer, three):
    assert ids(newcomer.get("/files")) == three[::-1]


def test_it_pages(newcomer, three):
    answer = newcomer.get("/files/?limit=1&offset=1")
    assert ids(answer) == [three[1]]
    assert answer.headers["X-Total-Count"] == "3"


def test_it_filters_by_kind(newcomer, site, three):
    site.stack.sql("UPDATE files_file SET kind = 'output' WHERE id = %s", three[0])
    assert ids(newcomer.get("/files/?kind=output")) == [three[0]]
    assert ids(newcomer.get("/files/?kind=upload")) == [three[2], three[1]]


def test_it_filters_by_age(newcomer, site, three):
    site.stack.sql("UPDATE files_file SET created_at = '2020-01-01T00:00:00Z' WHERE id = %s", three[0])
    assert ids(newcomer.get("/files/?created_before=2021-01-01T00:00:00Z")) == [three[0]]
    assert ids(newcomer.get("/files/?created_after=2021-01-01T00:00:00Z")) == [three[2], three[1]]


def test_it_leaves_expired_ones_out(newcomer, site, three):
    site.stack.sql("UPDATE files_file SET expires_at = now() - interval '1 second' WHERE id = %s", three[0])
    assert ids(newcomer.get("/files/")) == [three[2], three[1]]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "offset=-1", "kind=x", "created_after=x"]
)
def test_an_invalid_query_is_rejected(newcomer, query):
    body = assert_error(newcomer.get(f"/files/?{query}"), 400, "validation_error")
    assert body["details"][0]["field"] == query.partition("=")[0]


def test_it_wants_a_login(site):
    assert_error(requests.get(f"{site.url}/files/", timeout=30), 401, "unauthorized")
