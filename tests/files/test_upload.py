"""POST /files/upload."""

from __future__ import annotations

import hashlib
import os
import resource
import socket
import zlib
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests

from script.harness.waiting import wait_for
from tests.files.conftest import MAX_UPLOAD, assert_error, picture, upload, uploaded
from tests.files.pngs import claiming


def raw(person, *, body: bytes, length: int | None = None, headers: str = "") -> socket.socket:
    """A request to the upload whose body is sent as it stands, on a socket that stays open."""
    address = urlsplit(person.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=20)
    connection.sendall(
        b"POST /files/upload HTTP/1.1\r\nHost: localhost\r\n"
        + f"Authorization: {person.session.headers['Authorization']}\r\n".encode()
        + b"Content-Type: multipart/form-data; boundary=xyz\r\n"
        + f"Content-Length: {len(body) if length is None else length}\r\n{headers}\r\n".encode()
        + body
    )
    return connection


BEGUN = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'


def posted_in_pieces(person, pieces):
    """A body without a length."""
    return person.session.post(
        person.url + "/files/upload",
        data=pieces,
        headers={"Content-Type": "multipart/form-data; boundary=xyz"},
        timeout=30,
    )


class TestGood:
    def test_it_answers_as_documented(self, alice):
        content = picture()
        answer = upload(alice, content, "input_image.png")
        assert answer.status_code == 200
        body = answer.json()
        assert body["file_id"].startswith("file_")
        assert len(body["file_id"]) == len("file_") + 32
        assert body | {"file_id": "", "expires_at": ""} == {
            "file_id": "",
            "filename": "input_image.png",
            "size": len(content),
            "content_type": "image/png",
            "upload_url": None,
            "sha256": hashlib.sha256(content).hexdigest(),
            "expires_at": "",
        }
        assert "X-RateLimit-Limit" not in answer.headers, "limits are off in tests"
        assert answer.headers["X-Request-ID"]

    def test_it_answers_with_a_slash_at_the_end_too(self, alice):
        answer = alice.session.post(alice.url + "/files/upload/", files={"file": b"x"}, timeout=30)
        assert answer.status_code == 200

    def test_it_takes_a_body_without_a_length(self, alice):
        def chunks():
            yield BEGUN
            for _ in range(10):
                yield b"0123456789" * 1000
            yield b"\r\n--xyz--\r\n"

        answer = posted_in_pieces(alice, chunks())
        assert answer.json()["size"] == 100_000

    def test_pieces_of_all_sizes_are_stored_in_order(self, alice):
        """Large ones and many small ones take different ways through the server."""
        sizes = [300_000, *[7] * 500, 100_000, 1, 1_000_000, *[1_500] * 500, 70_000]
        pieces = [os.urandom(size) for size in sizes]
        answer = posted_in_pieces(alice, iter([BEGUN, *pieces, b"\r\n--xyz--\r\n"]))
        assert answer.status_code == 200, answer.text
        assert alice.get(f"/files/{answer.json()['file_id']}").content == b"".join(pieces)

    def test_the_bytes_are_what_was_sent(self, alice):
        content = os.urandom(1_500_000)
        file_id = uploaded(alice, content, "random.bin")
        assert alice.get(f"/files/{file_id}").content == content

    def test_a_file_of_the_largest_size_is_taken(self, alice):
        assert upload(alice, b"x" * MAX_UPLOAD).json()["size"] == MAX_UPLOAD

    def test_a_checksum_that_fits_is_taken(self, alice):
        assert upload(alice, b"abc", sha256=hashlib.sha256(b"abc").hexdigest()).status_code == 200

    @pytest.mark.parametrize(
        "content, name, expected",
        [
            (picture(kind="JPEG"), "x.png", "image/jpeg"),
            (b"<html><script>alert(1)</script>", "x.png", "text/html"),
            (b"\xef\xbb\xbf <?xml version='1.0'?><a/>", "x.txt", "text/xml"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "x.jpg", "image/svg+xml"),
            ("<html>".encode("utf-16"), "x.txt", "text/html"),
            (b"#!/bin/sh\nrm -rf /", "x.png", "text/x-script"),
            (b'{"a": 1}', "x.json", "application/json"),
            ("für Alice".encode(), "x.exe", "text/plain"),
            (b"\x00\x01\x02\x03", "x.png", "application/octet-stream"),
            (b"glTF\x02\x00\x00\x00", "x", "model/gltf-binary"),
        ],
    )
    def test_the_type_is_that_of_the_content(self, alice, content, name, expected):
        assert upload(alice, content, name).json()["content_type"] == expected

    @pytest.mark.parametrize(
        "name, expected",
        [
            ("../../etc/passwd", "passwd"),
            ("C:\\Users\\alice\\cat.png", "cat.png"),
            ("nul\x00inside.png", "nulinside.png"),
            ("a" * 5000 + ".png", "a" * 251 + ".png"),
            ("a" * 5000, "a" * 255),
            ("Übergrößen 🐈.png", "Übergrößen 🐈.png"),
            ("evil\u202egnp.exe", "evilgnp.exe"),
            ("..", "file"),
            ('quo"te.png', 'quo"te.png'),
        ],
    )
    def test_a_name_is_cleaned_for_display(self, alice, name, expected):
        quoted = name.replace("\\", "\\\\").replace('"', '\\"').encode()
        body = BEGUN.replace(b"a.bin", quoted) + b"x\r\n--xyz--\r\n"
        answer = alice.session.post(
            alice.url + "/files/upload",
            data=body,
            headers={"Content-Type": "multipart/form-data; boundary=xyz"},
            timeout=30,
        )
        assert answer.json()["filename"] == expected

    @pytest.mark.parametrize(
        "given",
        [
            "filename*=UTF-8''stra%C3%9Fe.txt",
            "filename=\"x.txt\"; filename*=UTF-8''stra%C3%9Fe.txt",
            'filename="=?utf-8?B?c3RyYcOfZS50eHQ=?="',
            "filename*=ISO-8859-1''stra%DFe.txt",
        ],
    )
    def test_a_non_ascii_filename_is_returned_in_both_forms(self, alice, given):
        body = f'--xyz\r\nContent-Disposition: form-data; name="file"; {given}\r\n\r\nx\r\n--xyz--\r\n'
        headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
        answer = alice.session.post(
            f"{alice.url}/files/upload", data=body.encode(), headers=headers, timeout=30
        )
        assert answer.json()["filename"] == "straße.txt"
        shown = alice.get(f"/files/{answer.json()['file_id']}").headers["Content-Disposition"]
        assert shown == "inline; filename=\"strae.txt\"; filename*=utf-8''stra%C3%9Fe.txt"

    def test_a_filename_in_another_encoding_is_rejected_with_an_explanation(self, alice):
        body = (
            '--xyz\r\nContent-Disposition: form-data; name="file"; filename="é.txt"\r\n\r\nx\r\n--xyz--\r\n'
        )
        headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
        url = f"{alice.url}/files/upload"
        answer = alice.session.post(url, data=body.encode("latin-1"), headers=headers, timeout=30)
        assert answer.status_code == 400
        [detail] = answer.json()["details"]
        assert detail["message"].endswith("file names are written in UTF-8")
        assert "UnicodeDecodeError" not in detail["message"]

    def test_two_names_for_the_same_bytes_are_stored_once(self, alice, site):
        content = os.urandom(1000)
        before = site.stored()
        first, second = uploaded(alice, content, "one.bin"), uploaded(alice, content, "two.bin")
        assert first != second
        assert len(site.stored() - before) == 1

    def test_bytes_that_the_storage_has_lost_are_stored_again(self, alice, site):
        content = os.urandom(1000)
        before = site.stored()
        lost = uploaded(alice, content)
        [key] = site.stored() - before
        site.lose(key)
        for _ in range(2):  # the second one shares the bytes of the first
            file_id = uploaded(alice, content)
            assert alice.get(f"/files/{file_id}").content == content
        assert len(site.stored() - before) == 1
        assert alice.get(f"/files/{lost}").status_code != 200

    def test_the_same_bytes_of_two_users_are_stored_twice(self, alice, bob, site):
        content = os.urandom(1000)
        before = site.stored()
        uploaded(alice, content), uploaded(bob, content)
        assert len(site.stored() - before) == 2

    def test_the_same_bytes_at_the_same_time_are_stored_once(self, alice, site):
        content = os.urandom(300_000)
        before = site.stored()
        with ThreadPoolExecutor(6) as pool:
            ids = set(pool.map(lambda n: uploaded(alice, content, f"{n}.bin"), range(6)))
        assert len(ids) == 6
        wait_for(lambda: len(site.stored() - before) == 1, seconds=60, what="one copy")

    def test_equal_bytes_may_be_uploaded_while_their_last_file_is_deleted(self, alice):
        content = os.urandom(20_000)

        def come_and_go(n: int) -> None:
            file_id = uploaded(alice, content, f"{n}.bin")
            assert alice.get(f"/files/{file_id}").content == content
            assert alice.session.delete(f"{alice.url}/files/{file_id}", timeout=30).status_code == 200

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(come_and_go, range(24)))


class TestBad:
    def test_it_wants_a_login(self, site):
        answer = requests.post(f"{site.url}/files/upload", files={"file": b"x"}, timeout=30)
        assert_error(answer, 401, "unauthorized")

    def test_another_method_is_refused(self, alice):
        answer = alice.session.put(alice.url + "/files/upload", data=b"x", timeout=30)
        assert_error(answer, 405, "method_not_allowed")

    def test_an_empty_file_is_refused(self, alice):
        [detail] = assert_error(upload(alice, b""), 400, "validation_error")["details"]
        assert (detail["field"], detail["code"]) == ("file", "EMPTY_FILE")

    def test_an_empty_picture_is_refused_whatever_its_name(self, alice):
        assert_error(upload(alice, b"", "picture.png"), 400, "validation_error")

    @pytest.mark.parametrize(
        "fields", [{"other": ("a.txt", b"x")}, {"description": (None, b"x")}, {"file": (None, b"text")}]
    )
    def test_a_form_without_a_file_is_refused(self, alice, fields):
        answer = alice.session.post(alice.url + "/files/upload", files=fields, timeout=30)
        assert assert_error(answer, 400, "validation_error")["details"][0]["field"] == "file"

    def test_two_files_at_once_are_refused(self, alice):
        files = [("file", ("a", b"x")), ("file", ("b", b"y"))]
        answer = alice.session.post(alice.url + "/files/upload", files=files, timeout=30)
        assert_error(answer, 400, "validation_error")

    @pytest.mark.parametrize("content_type", ["application/json", "image/png", "", "text/plain; boundary=x"])
    def test_another_content_type_is_refused(self, alice, content_type):
        answer = alice.session.post(
            alice.url + "/files/upload", data=b"{}", headers={"Content-Type": content_type}, timeout=30
        )
        assert_error(answer, 415, "unsupported_media_type")

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"nonsense",
            BEGUN,
            BEGUN + b"x",
            BEGUN.replace(b"\r\n\r\n", b"\r\n") + b"x\r\n--xyz--\r\n",
            BEGUN.replace(b"a.bin", b"\xff\xfe.bin") + b"x\r\n--xyz--\r\n",
            b"--xyz\r\nA: " + b"x" * 40_000 + b"\r\n\r\nx\r\n--xyz--\r\n",
        ],
    )
    def test_an_invalid_form_is_rejected(self, alice, site, body):
        answer = alice.session.post(
            alice.url + "/files/upload",
            data=body,
            headers={"Content-Type": "multipart/form-data; boundary=xyz"},
            timeout=30,
        )
        assert_error(answer, 400, "validation_error")
        site.wait_for_no_incoming()

    def test_a_form_without_a_boundary_is_refused(self, alice):
        answer = alice.session.post(
            alice.url + "/files/upload",
            data=b"x",
            headers={"Content-Type": "multipart/form-data"},
            timeout=30,
        )
        assert_error(answer, 400, "validation_error")

    def test_a_file_that_says_it_is_too_large_is_refused_unread(self, alice, site):
        with raw(alice, body=BEGUN, length=MAX_UPLOAD * 2) as connection:
            assert connection.recv(1000).startswith(b"HTTP/1.1 413")
        site.wait_for_no_incoming()

    def test_a_file_that_turns_out_too_large_is_refused_and_leaves_nothing(self, alice, site):
        before = site.stored()

        def chunks():
            yield BEGUN
            yield b"x" * (MAX_UPLOAD + 1)
            yield b"\r\n--xyz--\r\n"

        answer = posted_in_pieces(alice, chunks())
        assert_error(answer, 413, "payload_too_large")
        site.wait_for_no_incoming()
        assert site.stored() == before

    def test_a_compressed_body_is_refused(self, alice):
        bomb = zlib.compress(b"\x00" * 10_000_000, wbits=31)
        answer = alice.session.post(
            alice.url + "/files/upload",
            data=bomb,
            headers={"Content-Type": "multipart/form-data; boundary=xyz", "Content-Encoding": "gzip"},
            timeout=30,
        )
        assert_error(answer, 415, "unsupported_media_type")

    def test_an_image_that_claims_a_billion_pixels_is_rejected(self, alice, site):
        before = site.stored()
        bomb = claiming(31623, 31623)
        [detail] = assert_error(upload(alice, bomb, "bomb.png"), 400, "validation_error")["details"]
        assert detail["code"] == "PICTURE_TOO_LARGE"
        assert site.stored() == before

    def test_an_image_that_claims_a_side_without_pixels_has_no_size(self, alice):
        file_id = uploaded(alice, claiming(2**32 - 1, 0), "flat.png")
        found = alice.get(f"/files/{file_id}/info").json()
        assert (found["width"], found["height"]) == (None, None)

    def test_a_disconnected_client_leaves_nothing(self, newcomer, site):
        before = site.stored()
        connection = raw(newcomer, body=BEGUN + b"x" * 500_000, length=1_000_000)
        wait_for(site.incoming, seconds=60, what="the beginning of the upload")
        connection.close()
        site.wait_for_no_incoming()
        assert site.stored() == before
        assert newcomer.get("/files/").json() == []

    def test_a_disk_that_fills_up_is_reported_and_leaves_no_files(self, alice, site):
        """The kernel lets the web process write no more of a file: to it the same as a full disk."""
        before, pid = site.stored(), site.stack.web.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (500_000, hard))
        try:
            answer = upload(alice, os.urandom(1_000_000))
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
        body = assert_error(answer, 503, "service_unavailable")
        assert "no space" in body["message"]
        assert answer.headers["Retry-After"]
        site.wait_for_no_incoming()
        assert site.stored() == before

    def test_a_checksum_that_does_not_fit_is_refused(self, alice):
        body = assert_error(upload(alice, b"abc", sha256="0" * 64), 400, "validation_error")
        assert body["details"][0]["code"] == "CHECKSUM_MISMATCH"

    def test_a_description_that_is_too_long_is_refused(self, alice):
        body = assert_error(upload(alice, b"abc", description="x" * 1001), 400, "validation_error")
        assert body["details"][0]["field"] == "description"

    def test_a_form_with_oversized_fields_is_rejected(self, alice):
        assert_error(upload(alice, b"abc", whatever="x" * 70_000), 413, "payload_too_large")

    def test_the_quota_of_storage_holds(self, newcomer, site):
        [[user_id]] = site.stack.sql("SELECT id FROM accounts_user WHERE email = %s", newcomer.email)
        site.stack.sql(
            "INSERT INTO accounts_userlimits (user_id, storage_bytes, rate_limits, highest_priority)"
            " VALUES (%s, 1000, '', '')",
            user_id,
        )
        content = os.urandom(600)
        uploaded(newcomer, content)
        uploaded(newcomer, content)  # the same bytes take no room
        before = site.stored()
        answer = upload(newcomer, os.urandom(600))
        body = assert_error(answer, 429, "rate_limit_exceeded")
        assert body["details"][0]["code"] == "QUOTA_EXCEEDED"
        assert site.stored() == before
