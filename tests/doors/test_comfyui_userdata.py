"""What editors keep on the server through ComfyUI's routes: settings and files, each user's own."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts import storage_use
from accounts.models import User
from comfyserve.api.errors import LimitExceeded
from files import user_data
from files.models import UserData
from script.harness.stack import Person, Stack


@pytest.fixture
def person(bare_stack: Stack) -> Person:
    return bare_stack.person()


def address(path: str) -> str:
    """As ComfyUI's front end writes it: a path is one part of the address."""
    return f"/comfyui/api/userdata/{quote(path, safe='')}"


def save(person: Person, path: str, content: bytes = b"{}", query: str = "") -> Any:
    return person.session.post(f"{person.url}{address(path)}{query}", data=content, timeout=30)


def test_files_are_kept_listed_moved_and_deleted(person, bare_stack):
    content = json.dumps({"nodes": [], "name": "lac en été"}).encode()
    answer = save(person, "workflows/été/a.json", content, "?overwrite=false&full_info=true")
    assert answer.status_code == 200, answer.text
    info = answer.json()
    assert (info["path"], info["size"]) == ("workflows/été/a.json", len(content))
    assert info["modified"] == pytest.approx(info["created"], abs=5)
    found = person.get(address("workflows/été/a.json"))
    assert (found.content, found.headers["Content-Type"]) == (content, "application/json")
    assert save(person, "workflows/été/a.json", b"1", "?overwrite=false").status_code == 409
    assert save(person, "workflows/b.json").json() == "workflows/b.json"

    def listed(**query: str) -> Any:
        return person.get("/comfyui/userdata", params={"dir": "workflows", **query}).json()

    assert listed() == ["b.json"]
    assert listed(recurse="true") == ["b.json", "été/a.json"]
    assert listed(recurse="true", split="true") == [["b.json", "b.json"], ["été/a.json", "été", "a.json"]]
    [info] = listed(full_info="true")
    assert (info["path"], info["size"]) == ("b.json", 2)
    tree = person.get("/comfyui/api/v2/userdata", params={"path": ""}).json()
    assert [(row["type"], row["path"]) for row in tree] == [
        ("directory", "workflows"),
        ("directory", "workflows/été"),
        ("file", "workflows/été/a.json"),
        ("file", "workflows/b.json"),
    ]

    source, target = address("workflows/b.json"), quote("workflows/été/a.json", safe="")
    moved = person.session.post(f"{person.url}{source}/move/{target}?overwrite=false", timeout=30)
    assert moved.status_code == 409
    moved = person.session.post(f"{person.url}{source}/move/{target}?full_info=true", timeout=30)
    assert moved.json()["path"] == "workflows/été/a.json"
    assert person.get(address("workflows/été/a.json")).content == b"{}"
    assert person.get(address("workflows/b.json")).status_code == 404
    other = bare_stack.person()
    assert other.get(address("workflows/été/a.json")).status_code == 404
    assert other.get("/comfyui/userdata", params={"dir": "workflows"}).status_code == 404
    url = f"{person.url}{address('workflows/été/a.json')}"
    assert [person.session.delete(url, timeout=30).status_code for _ in range(2)] == [204, 404]
    assert person.get("/comfyui/userdata", params={"dir": "workflows"}).status_code == 404


def test_settings_are_merged_and_are_a_file_as_in_comfyui(person, bare_stack):
    assert person.get("/comfyui/settings").json() == {}
    assert person.get("/comfyui/settings/Comfy.Locale").json() is None
    assert person.post("/comfyui/api/settings", {"a": 1, "Comfy.Locale": "en"}).status_code == 200
    assert person.post("/comfyui/settings/Comfy.Locale", "fr").status_code == 200
    expected = {"a": 1, "Comfy.Locale": "fr"}
    assert person.get("/comfyui/settings").json() == expected
    assert person.get("/comfyui/api/settings/Comfy.Locale").json() == "fr"
    assert person.get(address("comfy.settings.json")).json() == expected
    assert bare_stack.person().get("/comfyui/settings").json() == {}
    assert person.post("/comfyui/settings", [1]).status_code == 400
    save(person, "comfy.settings.json", b"not JSON")
    assert person.get("/comfyui/settings").json() == {}


def test_the_key_decides_who_the_user_is(person):
    assert person.get("/comfyui/users").json() == {"storage": "server", "migrated": True}
    assert person.post("/comfyui/users", {"username": "another"}).status_code == 400


@pytest.mark.parametrize("path", ["../a.json", "a/../../b", "a\\b", "x" * 300])
def test_a_path_that_leaves_the_users_folder_is_rejected(person, path):
    answer = save(person, path)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_stored_files_never_run_in_a_browser(person):
    save(person, "page.html", b"<script>alert(1)</script>")
    found = person.get(address("page.html"))
    assert found.headers["Content-Type"] == "application/octet-stream"
    assert found.headers["X-Content-Type-Options"] == "nosniff"
    assert found.headers["Content-Security-Policy"] == "sandbox"


def test_user_data_is_bounded_and_counts_towards_the_quota(person, bare_stack):
    too_large = save(person, "a.bin", b"x" * (user_data.MAX_BYTES + 1))
    assert too_large.status_code == 413, too_large.text
    [[user_id]] = bare_stack.sql("SELECT id FROM accounts_user WHERE email = %s", person.email)
    assert bare_stack.sql("SELECT count(*) FROM files_userdata WHERE user_id = %s", user_id) == [(0,)]
    bare_stack.sql(
        "INSERT INTO accounts_userlimits (user_id, storage_bytes, rate_limits, highest_priority)"
        " VALUES (%s, 1000, '', '')",
        user_id,
    )
    assert save(person, "a.bin", b"x" * 900).status_code == 200
    assert save(person, "b.bin", b"x" * 200).status_code == 429
    assert save(person, "a.bin", b"x" * 1000).status_code == 200  # it takes the place of the first
    assert save(person, "a.bin", b"x" * 10).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_the_number_of_files_and_their_sum_are_bounded(monkeypatch):
    user = User.objects.create_user("keeper", "keeper@example.com", "a long pass phrase")
    monkeypatch.setattr(user_data, "MAX_FILES", 2)
    monkeypatch.setattr(user_data, "MAX_TOTAL_BYTES", 100)
    user_data.write(user, "a", b"x" * 60)
    with pytest.raises(LimitExceeded):
        user_data.write(user, "b", b"x" * 41)
    user_data.write(user, "b", b"x" * 40)
    with pytest.raises(LimitExceeded):
        user_data.write(user, "c", b"")
    user_data.write(user, "a", b"y" * 60)
    assert storage_use.of(user.pk) == 100
    user.delete()
    assert not UserData.objects.exists()


def test_overwriting_does_not_load_the_old_content(alice):
    user_data.write(alice, "a", b"x" * 60)
    with CaptureQueriesContext(connection) as queries:
        user_data.write(alice, "a", b"y" * 60)
    read = [query["sql"] for query in queries if query["sql"].startswith("SELECT")]
    assert [sql for sql in read if '"content"' in sql] == []
    assert user_data.read(alice, "a") == b"y" * 60
