"""Usernames that differ only in case are refused in the console, as at registration."""

from __future__ import annotations

import pytest

from accounts.models import User
from tests.factories import make_user

TAKEN = b"Another user has this username"
PASSWORD = "correct horse battery"
INLINE = {"limits-TOTAL_FORMS": "0", "limits-INITIAL_FORMS": "0"}


def added(console, username, email="new@example.com"):
    form = {"username": username, "email": email, "password1": PASSWORD, "password2": PASSWORD}
    return console.post("/admin/accounts/user/add/", form | INLINE | {"usable_password": "true"})


@pytest.mark.parametrize("username", ["ALICE", "Alice", "alice"])
def test_a_new_user_may_not_look_like_another(console, alice, username):
    answer = added(console, username)
    assert answer.status_code == 200
    assert TAKEN in answer.content or b"already exists" in answer.content
    assert User.objects.count() == 2


def test_a_new_name_is_taken(console, alice):
    answer = added(console, "Alicia")
    assert answer.status_code == 302, answer.content
    assert User.objects.filter(username="Alicia").exists()


def changed(console, user, username):
    form = {"username": username, "email": user.email, "is_active": "on", **INLINE}
    return console.post(f"/admin/accounts/user/{user.pk}/change/", form)


def test_a_user_may_not_be_renamed_to_look_like_another(console, alice):
    bob = make_user("bob")
    assert TAKEN in changed(console, bob, "ALICE").content
    assert changed(console, bob, "BOB").status_code == 302
    assert User.objects.get(pk=bob.pk).username == "BOB"


def test_a_user_who_looks_like_another_already_can_be_edited(console, alice):
    User.objects.filter(pk=make_user("bob").pk).update(username="ALICE")
    bob = User.objects.get(username="ALICE")
    assert changed(console, bob, "ALICE").status_code == 302
