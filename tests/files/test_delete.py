"""DELETE /files/{file_id}."""

from __future__ import annotations

import requests

from tests.files.conftest import assert_error, picture, uploaded


def delete(person, file_id: str) -> requests.Response:
    return person.session.delete(f"{person.url}/files/{file_id}", timeout=30)


def test_the_file_and_its_bytes_are_deleted(alice, site):
    before = site.stored()
    file_id = uploaded(alice, picture(), "cat.png")
    assert alice.get(f"/files/{file_id}/thumbnail").status_code == 200
    assert len(site.stored() - before) == 2, "the bytes and the thumbnail"
    answer = delete(alice, file_id)
    assert (answer.status_code, answer.json()) == (200, {"message": "File deleted successfully"})
    assert_error(alice.get(f"/files/{file_id}"), 404, "not_found")
    assert site.stored() == before


def test_bytes_that_another_file_shares_stay(alice):
    content = picture()
    first, second = uploaded(alice, content), uploaded(alice, content)
    assert delete(alice, first).status_code == 200
    assert alice.get(f"/files/{second}").content == content
    assert alice.get(f"/files/{second}/thumbnail").status_code == 200


def test_another_users_file_is_not_found(alice, bob):
    file_id = uploaded(alice, b"x")
    assert_error(delete(bob, file_id), 404, "not_found")
    assert alice.get(f"/files/{file_id}").content == b"x"


def test_a_second_time_it_is_not_found(alice):
    file_id = uploaded(alice, b"x")
    delete(alice, file_id)
    assert_error(delete(alice, file_id), 404, "not_found")


def test_a_signed_link_does_not_delete(alice):
    file_id = uploaded(alice, b"x")
    answer = requests.delete(f"{alice.url}/files/{file_id}?expires=1&signature=x", timeout=30)
    assert_error(answer, 401, "unauthorized")
