"""GET /files/{file_id}/info."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

import requests

from tests.files.conftest import assert_error, picture, uploaded


def test_it_answers_as_documented(alice):
    content = picture(size=(30, 20))
    file_id = uploaded(alice, content, "cat.png", description="A cat")
    answer = alice.get(f"/files/{file_id}/info")
    assert answer.status_code == 200
    body = answer.json()
    assert list(body)[:7] == [
        "file_id", "filename", "size", "content_type", "created_at", "expires_at", "download_url",
    ]  # fmt: skip
    assert (body["file_id"], body["filename"]) == (file_id, "cat.png")
    assert (body["size"], body["content_type"]) == (len(content), "image/png")
    assert (body["kind"], body["description"]) == ("upload", "A cat")
    assert (body["width"], body["height"]) == (30, 20)
    assert body["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_file_expires_after_seven_days(alice):
    body = alice.get(f"/files/{uploaded(alice, b'x')}/info").json()
    created, expires = (datetime.fromisoformat(body[name]) for name in ("created_at", "expires_at"))
    assert abs(expires - created - timedelta(days=7)) < timedelta(seconds=5)


def test_it_wants_a_login(alice):
    file_id = uploaded(alice, b"x")
    assert_error(requests.get(f"{alice.url}/files/{file_id}/info", timeout=30), 401, "unauthorized")


def test_another_users_file_is_not_found(alice, bob):
    assert_error(bob.get(f"/files/{uploaded(alice, b'x')}/info"), 404, "not_found")


def test_a_malformed_id_is_not_found(alice):
    assert_error(alice.get("/files/nonsense/info"), 404, "not_found")
