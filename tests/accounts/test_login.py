from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from accounts import throttling
from accounts.models import AttemptCount, User
from tests.factories import PASSWORD, Api, assert_error, make_user


def log_in(api: Api, email: str = "alice@example.com", password: str = PASSWORD, **options):
    return api.post("/auth/login", {"email": email, "password": password}, **options)


class TestLogin:
    def test_it_answers_as_the_reference_says(self, alice: User, stranger: Api) -> None:
        response = log_in(stranger)
        assert response.status_code == 200
        body = response.json()
        assert list(body) == ["access_token", "refresh_token", "token_type", "expires_in"]
        assert (body["token_type"], body["expires_in"]) == ("bearer", 1800)
        assert Api(body["access_token"]).get("/auth/me").json()["email"] == "alice@example.com"

    def test_the_case_of_the_address_does_not_matter(self, alice: User, stranger: Api) -> None:
        assert log_in(stranger, "ALICE@example.COM").status_code == 200

    def test_a_stale_token_in_the_header_does_no_harm(self, alice: User) -> None:
        assert log_in(Api("stale")).status_code == 200

    def test_a_wrong_password_and_an_unknown_address_get_the_same_answer(
        self, alice: User, stranger: Api
    ) -> None:
        wrong = assert_error(log_in(stranger, password="wrong"), 401, "unauthorized")
        unknown = assert_error(log_in(stranger, "nobody@example.com"), 401, "unauthorized")
        for body in (wrong, unknown):
            del body["timestamp"], body["request_id"]
        assert wrong == unknown

    def test_an_unknown_address_costs_a_hash_too(self, stranger: Api, monkeypatch) -> None:
        hashed = []
        monkeypatch.setattr(User, "set_password", lambda self, raw: hashed.append(raw))
        log_in(stranger, "nobody@example.com")
        assert hashed == [PASSWORD]

    def test_an_inactive_user_gets_the_same_answer(self, alice: User, stranger: Api) -> None:
        User.objects.filter(pk=alice.pk).update(is_active=False)
        assert_error(log_in(stranger), 401, "unauthorized")


class TestThrottling:
    def test_guessing_from_one_address_ends_soon(self, alice: User, stranger: Api) -> None:
        allowed = throttling.FROM_ADDRESS_AT_ACCOUNT.limit
        statuses = [log_in(stranger, password="wrong").status_code for _ in range(allowed + 1)]
        assert statuses == [401] * allowed + [429]
        refused = log_in(stranger)
        assert_error(refused, 429, "rate_limit_exceeded")
        assert int(refused["Retry-After"]) > 0

    def test_other_spellings_of_the_address_are_counted_with_it(self, alice: User, stranger: Api) -> None:
        allowed = throttling.FROM_ADDRESS_AT_ACCOUNT.limit
        names = ("al\u0130ce", "ALICE", "ali\u0307ce", "al\uff49ce")
        spellings = itertools.cycle(f"{name}@example.com" for name in names)
        statuses = [
            stranger.post("/auth/login", {"email": next(spellings), "password": "wrong"}).status_code
            for _ in range(allowed)
        ]
        assert set(statuses) == {401}
        assert log_in(stranger).status_code == 429

    def test_an_account_that_does_not_exist_is_refused_alike(self, stranger: Api) -> None:
        allowed = throttling.FROM_ADDRESS_AT_ACCOUNT.limit
        statuses = [log_in(stranger, "nobody@example.com").status_code for _ in range(allowed + 1)]
        assert statuses == [401] * allowed + [429]

    def test_a_success_clears_the_count(self, alice: User, stranger: Api) -> None:
        for _ in range(3):
            log_in(stranger, password="wrong")
            log_in(stranger)
        assert not AttemptCount.objects.filter(key__contains=":127.0.0.1", count__gt=3).exists()

    def test_strangers_cannot_lock_a_user_out_of_a_known_address(
        self, alice: User, stranger: Api, monkeypatch
    ) -> None:
        monkeypatch.setattr(throttling, "AT_ACCOUNT", throttling.Window(2, 3600))
        log_in(stranger, REMOTE_ADDR="10.0.0.1")
        for last in range(2, 5):
            log_in(stranger, password="wrong", REMOTE_ADDR=f"10.0.0.{last}")
        assert log_in(stranger, REMOTE_ADDR="10.0.0.9").status_code == 429
        assert log_in(stranger, REMOTE_ADDR="10.0.0.1").status_code == 200

    def test_addresses_of_one_ipv6_network_count_as_one(self, alice: User, stranger: Api) -> None:
        allowed = throttling.FROM_ADDRESS_AT_ACCOUNT.limit
        for last in range(allowed):
            log_in(stranger, password="wrong", REMOTE_ADDR=f"2001:db8::{last + 1:x}")
        assert log_in(stranger, REMOTE_ADDR="2001:db8::ffff").status_code == 429
        assert log_in(stranger, REMOTE_ADDR="2001:db8:0:1::1").status_code == 200

    @pytest.mark.django_db(transaction=True)
    def test_parallel_guesses_are_counted_before_they_are_checked(self) -> None:
        make_user("alice", password=PASSWORD)

        def guess(_: int) -> int:
            try:
                return log_in(Api(), password="wrong").status_code
            finally:
                connection.close()

        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(guess, range(24)))
        assert statuses.count(401) == throttling.FROM_ADDRESS_AT_ACCOUNT.limit

    def test_the_admin_form_is_throttled_too(self, alice: User, stranger: Api) -> None:
        form = {"username": "alice@example.com", "password": "wrong"}
        statuses = [
            stranger.client.post("/admin/login/", form).status_code
            for _ in range(throttling.FROM_ADDRESS_AT_ACCOUNT.limit + 1)
        ]
        assert statuses[-1] == 429
