from __future__ import annotations

import re
import smtplib
import socket

import pytest

from accounts import api_keys, password_mail, sessions, tasks, throttling
from accounts.models import User
from tests.factories import Api, assert_error, mistakes

NEW = "another fine battery"


@pytest.fixture
def sent(monkeypatch) -> list[str]:
    """The addresses that the worker was told; and e-mail is set up."""
    addresses: list[str] = []
    monkeypatch.setattr(tasks.send_password_reset, "delay", addresses.append)
    return addresses


@pytest.fixture(autouse=True)
def _email(settings) -> None:
    settings.EMAIL_HOST = "mail.example.com"
    settings.PASSWORD_RESET_PAGE = ""


def ask(email: str = "alice@example.com"):
    return Api().post("/auth/password/reset", {"email": email})


def confirm(token: str, new: str = NEW):
    return Api().post("/auth/password/reset/confirm", {"token": token, "new_password": new})


def token_in(mail) -> str:
    return re.findall(r"^\S+\.\S+-\S+$", mail.body, re.M)[0]


class TestAsking:
    def test_it_answers_the_same_whether_there_is_an_account(self, alice: User, sent: list[str]) -> None:
        known, unknown = ask(), ask("nobody@example.com")
        assert known.status_code == 200
        assert known.json() == unknown.json()
        assert sent == ["alice@example.com", "nobody@example.com"]

    def test_it_is_off_where_no_email_is_set_up(self, alice: User, settings) -> None:
        settings.EMAIL_HOST = ""
        assert_error(ask(), 404, "not_found")

    def test_it_sends_only_so_many(self, alice: User, sent: list[str]) -> None:
        for _ in range(throttling.RESETS_OF_ACCOUNT.limit):
            ask()
        assert_error(ask(), 429, "rate_limit_exceeded")


class TestSending:
    def test_it_sends_to_the_account(self, alice: User, mailoutbox) -> None:
        password_mail.send_reset(email="ALICE@example.com")
        assert [mail.to for mail in mailoutbox] == [["alice@example.com"]]

    def test_it_sends_nothing_if_there_is_no_account(self, db: None, mailoutbox) -> None:
        password_mail.send_reset(email="nobody@example.com")
        assert mailoutbox == []

    def test_it_names_the_page_of_the_operator(self, alice: User, mailoutbox, settings) -> None:
        settings.PASSWORD_RESET_PAGE = "https://front.example.com/reset?token={token}"
        password_mail.send_reset(email="alice@example.com")
        assert "https://front.example.com/reset?token=" in mailoutbox[0].body


class TestConfirming:
    def test_it_sets_the_password_and_ends_the_sessions(self, alice: User, as_alice: Api, mailoutbox) -> None:
        password_mail.send_reset(email="alice@example.com")
        assert confirm(token_in(mailoutbox[0])).status_code == 200
        assert_error(as_alice.get("/auth/me"), 401, "unauthorized")
        login = Api().post("/auth/login", {"email": "alice@example.com", "password": NEW})
        assert login.status_code == 200

    def test_it_revokes_the_api_keys(self, alice: User, mailoutbox) -> None:
        _, secret = api_keys.create(user=alice, name="made by a thief")
        assert Api(secret).get("/auth/me").status_code == 200
        password_mail.send_reset(email="alice@example.com")
        confirm(token_in(mailoutbox[0]))
        assert Api(secret).get("/auth/me").status_code == 401

    def test_the_token_works_once(self, alice: User, mailoutbox) -> None:
        password_mail.send_reset(email="alice@example.com")
        token = token_in(mailoutbox[0])
        confirm(token)
        body = assert_error(confirm(token, "yet another battery"), 400, "validation_error")
        assert set(mistakes(body)) == {"token"}

    def test_a_weak_password_leaves_the_token_good(self, alice: User, mailoutbox) -> None:
        password_mail.send_reset(email="alice@example.com")
        token = token_in(mailoutbox[0])
        body = assert_error(confirm(token, "12345"), 400, "validation_error")
        assert set(mistakes(body)) == {"new_password"}
        assert confirm(token).status_code == 200

    @pytest.mark.parametrize(
        "token", ["x", "x.y", "..", "MQ.x", "é.x", f"{'9' * 100}.x", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5.x"]
    )
    def test_nonsense_is_refused(self, db: None, token: str) -> None:
        assert_error(confirm(token), 400, "validation_error")

    def test_it_keeps_other_peoples_sessions(self, alice: User, bob: User, mailoutbox) -> None:
        bobs = sessions.start(user=bob)
        password_mail.send_reset(email="alice@example.com")
        confirm(token_in(mailoutbox[0]))
        assert Api(bobs.access_token).get("/auth/me").status_code == 200


def test_a_mail_server_that_does_not_answer_is_waited_for_only_so_long(alice, settings):
    """Otherwise it would hold a thread of the worker for ever."""
    assert 0 < settings.EMAIL_TIMEOUT <= 30
    settings.EMAIL_TIMEOUT = 0.2
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.EMAIL_HOST, settings.EMAIL_PORT = silent.getsockname()
        with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
            password_mail.send_reset(email="alice@example.com")
