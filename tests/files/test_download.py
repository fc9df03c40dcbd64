"""GET /files/{file_id}, and its thumbnail."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pytest
import requests
from PIL import Image

from tests.files.conftest import assert_error, picture, uploaded

CONTENT = bytes(range(256)) * 40  # 10,240 bytes


@pytest.fixture
def file_id(alice) -> str:
    return uploaded(alice, CONTENT, "bytes.bin")


def altered(url: str, **changes: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query=urlencode({**dict(parse_qsl(parts.query)), **changes})))


class TestWhole:
    def test_it_gives_the_bytes(self, alice, file_id):
        answer = alice.get(f"/files/{file_id}")
        assert answer.status_code == 200
        assert answer.content == CONTENT
        assert answer.headers["Content-Length"] == str(len(CONTENT))
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["X-Request-ID"]

    def test_a_large_one_arrives_whole(self, alice):
        content = os.urandom(2_900_000)
        assert alice.get(f"/files/{uploaded(alice, content)}/").content == content

    def test_head_gives_the_headers_alone(self, alice, file_id):
        answer = alice.session.head(f"{alice.url}/files/{file_id}", timeout=30)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["Content-Length"] == str(len(CONTENT))

    def test_it_wants_a_login_or_a_signature(self, alice, file_id):
        assert_error(requests.get(f"{alice.url}/files/{file_id}", timeout=30), 401, "unauthorized")

    def test_a_signed_link_ends_with_the_account(self, alice, site, file_id):
        if site.bucket is not None:
            pytest.skip("the S3 server answers to a link that it has signed, until it expires")
        url = alice.get(f"/files/{file_id}/info").json()["download_url"]
        assert requests.get(url, timeout=30).status_code == 200
        active = "UPDATE accounts_user SET is_active = %s WHERE email = %s"
        site.stack.sql(active, False, alice.email)
        try:
            assert_error(requests.get(url, timeout=30), 401, "unauthorized")
        finally:
            site.stack.sql(active, True, alice.email)

    def test_another_users_file_is_not_found(self, bob, file_id):
        assert_error(bob.get(f"/files/{file_id}"), 404, "not_found")

    @pytest.mark.parametrize("name", ["file_" + "0" * 32, "nonsense", "x" * 500, "..%2f..%2fetc%2fpasswd"])
    def test_an_unknown_file_is_not_found(self, alice, name):
        assert_error(alice.get(f"/files/{name}"), 404, "not_found")

    def test_an_expired_file_is_not_found(self, alice, site, file_id):
        site.stack.sql(
            "UPDATE files_file SET expires_at = now() - interval '1 second' WHERE id = %s", file_id
        )
        assert_error(alice.get(f"/files/{file_id}"), 404, "not_found")

    def test_a_file_whose_bytes_are_missing_is_not_found(self, alice, site, file_id):
        site.stack.sql("UPDATE files_file SET key = 'uploads/00/gone' WHERE id = %s", file_id)
        assert_error(alice.get(f"/files/{file_id}"), 404, "not_found")

    def test_post_is_refused(self, alice, file_id):
        assert_error(alice.post(f"/files/{file_id}", {}), 405, "method_not_allowed")


class TestParts:
    @pytest.mark.parametrize(
        "header, expected",
        [
            ("bytes=0-0", (0, 1)),
            ("bytes=100-199", (100, 200)),
            ("bytes=10000-", (10000, 10240)),
            ("bytes=-40", (10200, 10240)),
            ("bytes=-99999", (0, 10240)),
            ("bytes=0-99999", (0, 10240)),
        ],
    )
    def test_a_range_is_answered_with_that_part(self, alice, file_id, header, expected):
        answer = alice.get(f"/files/{file_id}", headers={"Range": header})
        start, end = expected
        assert answer.status_code == 206
        assert answer.content == CONTENT[start:end]
        assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/10240"
        assert answer.headers["Content-Length"] == str(end - start)

    @pytest.mark.parametrize("header", ["bytes=9-3", "bytes=10240-", "bytes=20000-30000", "bytes=-0"])
    def test_a_range_outside_or_backwards_is_refused(self, alice, file_id, header):
        answer = alice.get(f"/files/{file_id}", headers={"Range": header})
        assert_error(answer, 416, "range_not_satisfiable")
        assert answer.headers["Content-Range"] == "bytes */10240"

    @pytest.mark.parametrize("header", ["bytes=0-1,5-9", "items=0-5", "bytes=-", "bytes=a-b", "nonsense"])
    def test_a_range_that_is_not_read_here_gets_the_whole(self, alice, file_id, header):
        answer = alice.get(f"/files/{file_id}", headers={"Range": header})
        assert (answer.status_code, len(answer.content)) == (200, 10240)

    def test_if_range_holds_for_the_same_bytes_only(self, alice, file_id):
        etag = alice.get(f"/files/{file_id}").headers["ETag"]
        same = alice.get(f"/files/{file_id}", headers={"Range": "bytes=0-9", "If-Range": etag})
        other = alice.get(f"/files/{file_id}", headers={"Range": "bytes=0-9", "If-Range": '"other"'})
        assert (same.status_code, other.status_code) == (206, 200)

    def test_a_file_with_a_matching_etag_is_not_sent_again(self, alice, file_id):
        etag = alice.get(f"/files/{file_id}").headers["ETag"]
        for header in (etag, f'"x", W/{etag}', "*"):
            answer = alice.get(f"/files/{file_id}", headers={"If-None-Match": header})
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["ETag"] == etag

    def test_a_file_without_a_matching_etag_is_sent(self, alice, file_id):
        assert alice.get(f"/files/{file_id}", headers={"If-None-Match": '"other"'}).status_code == 200


class TestBrowsers:
    @pytest.mark.parametrize(
        "content, name",
        [
            (b"<html><script>alert(1)</script></html>", "page.html"),
            (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "drawing.svg"),
            (b"<?xml version='1.0'?><x xmlns='http://www.w3.org/1999/xhtml'/>", "data.xml"),
            (b"#!/bin/sh", "run.sh"),
            (b"%PDF-1.4", "paper.pdf"),
            (b"\x00\x01", "unknown.bin"),
        ],
    )
    def test_active_content_is_a_download(self, alice, content, name):
        answer = alice.get(f"/files/{uploaded(alice, content, name)}")
        assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}"'
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        assert answer.content == content

    def test_a_picture_is_shown(self, alice):
        answer = alice.get(f"/files/{uploaded(alice, picture(), 'cat.png')}")
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.headers["Content-Disposition"] == 'inline; filename="cat.png"'
        assert answer.headers["X-Content-Type-Options"] == "nosniff"

    def test_a_picture_is_a_download_when_asked_for(self, alice):
        answer = alice.get(f"/files/{uploaded(alice, picture(), 'cat.png')}?download=1")
        assert answer.headers["Content-Disposition"].startswith("attachment")

    def test_names_beyond_ascii_arrive(self, alice):
        answer = alice.get(f"/files/{uploaded(alice, picture(), 'Bär 🐻.png')}")
        expected = "inline; filename=\"Bar.png\"; filename*=utf-8''B%C3%A4r%20%F0%9F%90%BB.png"
        assert answer.headers["Content-Disposition"] == expected


class TestLinks:
    def test_a_link_works_without_a_header(self, alice, file_id):
        url = alice.get(f"/files/{file_id}/info").json()["download_url"]
        answer = requests.get(url, timeout=30)
        assert (answer.status_code, answer.content) == (200, CONTENT)
        assert answer.headers["Content-Disposition"].startswith("attachment")

    def test_a_link_gives_parts(self, alice, file_id):
        url = alice.get(f"/files/{file_id}/info").json()["download_url"]
        answer = requests.get(url, headers={"Range": "bytes=5-9"}, timeout=30)
        assert (answer.status_code, answer.content) == (206, CONTENT[5:10])

    def test_a_link_to_a_picture_shows_it(self, alice):
        url = alice.get(f"/files/{uploaded(alice, picture(), 'Bär.png')}/info").json()["download_url"]
        answer = requests.get(url, timeout=30)
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.headers["Content-Disposition"].startswith("inline")
        assert "B%C3%A4r.png" in answer.headers["Content-Disposition"]

    def test_an_altered_link_is_refused(self, alice, site, file_id):
        url = alice.get(f"/files/{file_id}/info").json()["download_url"]
        if site.bucket is not None:
            assert requests.get(altered(url, **{"X-Amz-Signature": "0" * 64}), timeout=30).status_code == 403
            return
        assert_error(requests.get(altered(url, signature="wrong"), timeout=30), 401, "unauthorized")
        later = str(int(time.time()) + 10**6)
        assert_error(requests.get(altered(url, expires=later), timeout=30), 401, "unauthorized")
        other = uploaded(alice, b"other")
        assert_error(requests.get(url.replace(file_id, other), timeout=30), 401, "unauthorized")


class TestThumbnail:
    def test_a_picture_has_one(self, alice):
        file_id = uploaded(alice, picture((10, 200, 30), size=(1000, 500)), "big.png")
        url = alice.get(f"/files/{file_id}/info").json()["thumbnail_url"]
        answer = requests.get(url, timeout=30)
        assert answer.headers["Content-Type"] == "image/webp"
        small = Image.open(BytesIO(answer.content))
        assert (small.format, small.size) == ("WEBP", (256, 128))

    def test_its_user_gets_it_with_a_token(self, alice, bob):
        file_id = uploaded(alice, picture())
        assert alice.get(f"/files/{file_id}/thumbnail").headers["Content-Type"] == "image/webp"
        assert_error(bob.get(f"/files/{file_id}/thumbnail"), 404, "not_found")

    def test_a_text_has_none(self, alice, file_id):
        assert alice.get(f"/files/{file_id}/info").json()["thumbnail_url"] is None
        assert_error(alice.get(f"/files/{file_id}/thumbnail"), 404, "not_found")

    def test_a_broken_picture_has_none(self, alice):
        file_id = uploaded(alice, picture(size=(500, 500))[:60], "broken.png")
        assert_error(alice.get(f"/files/{file_id}/thumbnail"), 404, "not_found")
        assert alice.get(f"/files/{file_id}/info").json()["thumbnail_url"] is None

    def test_asked_for_by_many_at_once_it_is_kept_once(self, alice, site):
        before = site.stored()
        file_id = uploaded(alice, picture(size=(800, 800)))
        with ThreadPoolExecutor(6) as threads:
            answers = list(threads.map(lambda _: alice.get(f"/files/{file_id}/thumbnail"), range(6)))
        assert [answer.status_code for answer in answers] == [200] * 6
        assert len({answer.content for answer in answers}) == 1
        assert len(site.stored() - before) == 2

    def test_files_with_the_same_bytes_share_it(self, alice, site):
        content = picture()
        first, second = uploaded(alice, content), uploaded(alice, content)
        before = site.stored()
        small = alice.get(f"/files/{first}/thumbnail").content
        assert alice.get(f"/files/{second}/thumbnail").content == small
        assert len(site.stored() - before) == 1
