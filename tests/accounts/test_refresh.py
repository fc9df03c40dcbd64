from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection
from django.test import override_settings
from django.utils import timezone

from accounts import sessions, tokens
from accounts.models import Session, User
from tests.factories import Api, assert_error, make_user


def refresh(token: str):
    return Api().post("/auth/refresh", {"refresh_token": token})


def works(access_token: str) -> bool:
    return Api(access_token).get("/auth/me").status_code == 200


def let_pass(seconds: int) -> None:
    """Everything that was issued was issued so much earlier."""
    for session in Session.objects.all():
        session.issued = [moment - timedelta(seconds=seconds) for moment in session.issued]
        session.save(update_fields=["issued"])


@pytest.fixture
def pair(alice: User) -> sessions.TokenPair:
    return sessions.start(user=alice)


class TestRefresh:
    def test_it_answers_as_login_does(self, pair: sessions.TokenPair) -> None:
        response = refresh(pair.refresh_token)
        assert response.status_code == 200
        assert list(response.json()) == ["access_token", "refresh_token", "token_type", "expires_in"]
        assert works(response.json()["access_token"])

    def test_it_rotates(self, pair: sessions.TokenPair) -> None:
        first = refresh(pair.refresh_token).json()
        second = refresh(first["refresh_token"]).json()
        assert len({pair.refresh_token, first["refresh_token"], second["refresh_token"]}) == 3

    def test_used_again_at_once_it_gives_the_same_answer(self, pair: sessions.TokenPair) -> None:
        first = refresh(pair.refresh_token).json()
        assert refresh(pair.refresh_token).json() == first

    def test_used_again_at_once_after_a_further_refresh_it_still_gives_the_same_answer(
        self, pair: sessions.TokenPair
    ) -> None:
        first = refresh(pair.refresh_token).json()
        refresh(first["refresh_token"])
        assert refresh(pair.refresh_token).json() == first

    def test_used_again_later_it_ends_the_session(self, pair: sessions.TokenPair) -> None:
        good = refresh(pair.refresh_token).json()
        let_pass(11)
        assert_error(refresh(pair.refresh_token), 401, "unauthorized")
        assert not works(good["access_token"])
        assert_error(refresh(good["refresh_token"]), 401, "unauthorized")
        assert Session.objects.get().end_reason == Session.End.THEFT

    def test_theft_in_one_session_leaves_the_others(self, alice: User, pair: sessions.TokenPair) -> None:
        other = sessions.start(user=alice)
        refresh(pair.refresh_token)
        let_pass(11)
        refresh(pair.refresh_token)
        assert works(other.access_token)

    def test_the_unused_token_works_late(self, pair: sessions.TokenPair) -> None:
        let_pass(3600)
        assert refresh(pair.refresh_token).status_code == 200

    def test_an_expired_one_is_refused(self, alice: User) -> None:
        long_ago = timezone.now() - timedelta(days=8)
        session = Session.objects.create(
            user=alice, password_stamp=alice.password_stamp, issued=[long_ago], expires_at=long_ago
        )
        expired = tokens.Refresh.make(session=session.id, user=alice.pk, generation=0, issued=long_ago)
        assert_error(refresh(expired), 401, "unauthorized")

    def test_an_access_token_is_not_a_refresh_token(self, pair: sessions.TokenPair) -> None:
        assert_error(refresh(pair.access_token), 401, "unauthorized")
        assert works(pair.access_token)

    def test_tokens_of_a_server_whose_clock_is_ahead_work(self, alice: User, monkeypatch) -> None:
        ahead = timezone.now() + timedelta(minutes=10)
        with monkeypatch.context() as patched:
            patched.setattr(timezone, "now", lambda: ahead)
            pair = sessions.start(user=alice)
        assert works(pair.access_token)
        assert refresh(pair.refresh_token).status_code == 200

    def test_a_refresh_token_is_no_access_token(self, pair: sessions.TokenPair) -> None:
        assert not works(pair.refresh_token)

    @pytest.mark.parametrize("token", ["x", "a.b.c", "ey.é.x", "csk_x"])
    def test_nonsense_is_refused(self, db: None, token: str) -> None:
        assert_error(refresh(token), 401, "unauthorized")

    @pytest.mark.django_db(transaction=True)
    def test_two_simultaneous_requests_get_the_same_answer(self) -> None:
        pair = sessions.start(user=make_user("alice"))

        def go(_: int) -> str:
            try:
                return refresh(pair.refresh_token).content.decode()
            finally:
                connection.close()

        with ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(go, range(8)))) == 1


class TestKeyRotation:
    OLD = "o" * 40
    NEW = "n" * 40

    def test_tokens_of_the_old_key_work_while_it_is_a_fallback(self, alice: User) -> None:
        with override_settings(JWT_SIGNING_KEY=self.OLD):
            pair = sessions.start(user=alice)
        with override_settings(JWT_SIGNING_KEY=self.NEW, JWT_SIGNING_KEY_FALLBACKS=[self.OLD]):
            assert works(pair.access_token)
            renewed = refresh(pair.refresh_token).json()
        with override_settings(JWT_SIGNING_KEY=self.NEW, JWT_SIGNING_KEY_FALLBACKS=[]):
            assert works(renewed["access_token"])
            assert not works(pair.access_token)

    def test_changing_secret_key_leaves_sessions_alone(self, alice: User) -> None:
        pair = sessions.start(user=alice)
        with override_settings(SECRET_KEY="another key, just as long as it has to be for this"):
            assert works(pair.access_token)
