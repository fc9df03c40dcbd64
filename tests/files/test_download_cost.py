"""The cost of a download: queries in a request thread."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.http import HttpResponse, HttpResponseBase
from django.test import RequestFactory

from accounts import sessions
from accounts.models import User
from comfyserve.api.errors import NotFound, Unauthorized
from comfyserve.api.gate.threads import ThreadHandler
from comfyserve.api.routing import is_download
from files import links, transfer
from files.models import File
from tests.factories import make_user

FILE_ID = "file_" + "0" * 32
CONTENT = b"some bytes"


@pytest.fixture
def alice(db: None) -> User:
    return make_user("alice")


@pytest.fixture
def file(alice: User, settings: Any, tmp_path: Any) -> File:
    settings.MEDIA_ROOT = tmp_path
    key = default_storage.save("uploads/some", ContentFile(CONTENT))
    return File.objects.create(
        id=FILE_ID, user=alice, kind="upload", filename="a.txt", content_type="text/plain",
        size=len(CONTENT), sha256="0" * 64, key=key,
    )  # fmt: skip


def content_of(response: HttpResponseBase) -> bytes:
    assert isinstance(response, HttpResponse)
    return response.content


def test_a_signed_link_takes_one_query(file, django_assert_num_queries):
    parts = urlsplit(links.download_url(file, base="http://testserver"))
    request = RequestFactory().get(f"{parts.path}?{parts.query}")
    with django_assert_num_queries(1):  # the file with its owner
        response = transfer.download_in_thread(request, FILE_ID)
    assert content_of(response) == CONTENT


def test_a_token_takes_two_queries(file, alice, django_assert_num_queries):
    token = sessions.start(user=alice).access_token
    request = RequestFactory().get(f"/files/{FILE_ID}", headers={"Authorization": f"Bearer {token}"})
    with django_assert_num_queries(2):  # the session with its user, and the file
        response = transfer.download_in_thread(request, FILE_ID)
    assert content_of(response) == CONTENT


def test_a_request_thread_uses_the_synchronous_twin(file):
    parts = urlsplit(links.download_url(file, base="http://testserver"))
    response = ThreadHandler().get_response(RequestFactory().get(f"{parts.path}?{parts.query}"))
    assert (response.status_code, content_of(response)) == (200, CONTENT)
    assert response["Content-Length"] == str(len(CONTENT))


def test_a_link_of_an_inactive_user_is_refused(file, alice):
    parts = urlsplit(links.download_url(file, base="http://testserver"))
    User.objects.filter(pk=alice.pk).update(is_active=False)
    with pytest.raises(Unauthorized):
        transfer.download_in_thread(RequestFactory().get(f"{parts.path}?{parts.query}"), FILE_ID)


def test_another_users_file_is_not_found(file):
    token = sessions.start(user=make_user("bob")).access_token
    request = RequestFactory().get(f"/files/{FILE_ID}", headers={"Authorization": f"Bearer {token}"})
    with pytest.raises(NotFound):
        transfer.download_in_thread(request, FILE_ID)


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        (f"/files/{FILE_ID}", b"", True),
        (f"/files/{FILE_ID}/thumbnail", b"expires=1&signature=x", True),
        (f"/files/{FILE_ID}", b"download=true&expires=1&signature=x", True),
        (f"/files/{FILE_ID}", b"format=webp", False),
        (f"/files/{FILE_ID}", b"%66ormat=webp", False),
        (f"/files/{FILE_ID}/info", b"", False),
        ("/files/", b"", False),
    ],
)
def test_only_what_waits_for_no_conversion_is_a_download(path, query, expected):
    assert is_download({"method": "GET", "path": path, "query_string": query}) is expected
