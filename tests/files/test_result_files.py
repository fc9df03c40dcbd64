"""`include=data` of a result whose files are in each kind of storage."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import requests

from script.harness import graphs
from script.harness.stack import Person
from tests.files.conftest import Site, picture, uploaded


@pytest.fixture(autouse=True)
def _no_worker(site: Site) -> None:
    """One kept for other tests would run what is submitted."""
    site.stack.stop_workers()


def completed(site: Site, person: Person, file_id: str) -> str:
    """An execution that has ended with this file as its output."""
    execution_id = person.execute(graphs.colour(1))
    site.stack.sql(
        "UPDATE workflows_execution SET status = 'completed', started_at = now(), completed_at = now(),"
        " claim_token = NULL, held = NULL WHERE id = %s",
        execution_id,
    )
    site.stack.sql(
        "INSERT INTO workflows_output"
        ' (execution_id, position, "group", node_id, subfolder, temporary, file_id)'
        " VALUES (%s, 0, 'images', '2', '', false, %s)",
        execution_id,
        file_id,
    )
    return execution_id


def image(person: Person, execution_id: str) -> dict[str, Any]:
    answer = person.get(f"/workflows/{execution_id}?include=data")
    assert answer.status_code == 200, answer.text
    [shown] = answer.json()["outputs"]["images"]
    return shown


def test_the_content_is_that_of_the_url(site, alice):
    content = picture()
    shown = image(alice, completed(site, alice, uploaded(alice, content, "a.png")))
    assert base64.b64decode(shown["data"]) == content
    assert requests.get(shown["url"], timeout=30).content == content


def test_a_file_of_megabytes_comes_whole(site, alice):
    content = b"x" * 2_900_000
    shown = image(alice, completed(site, alice, uploaded(alice, content)))
    assert base64.b64decode(shown["data"]) == content


def test_what_the_storage_lost_is_null(site, alice):
    execution_id = completed(site, alice, uploaded(alice, picture(), "a.png"))
    site.stack.sql(
        "UPDATE files_file SET key = 'uploads/00/gone' WHERE id ="
        " (SELECT file_id FROM workflows_output WHERE execution_id = %s)",
        execution_id,
    )
    shown = image(alice, execution_id)
    assert shown["data"] is None
    assert shown["url"]
