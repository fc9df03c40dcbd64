from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from accounts import api_keys
from accounts.models import ApiKey, User, UserLimits
from tests.factories import Api, assert_error, mistakes


@pytest.fixture
def secret(alice: User) -> str:
    return api_keys.create(user=alice, name="server")[1]


class TestMaking:
    def test_it_shows_the_key_once_and_stores_a_hash(self, as_alice: Api) -> None:
        response = as_alice.post("/auth/keys", {"name": "server"})
        assert response.status_code == 201
        made = response.json()
        assert made["key"].startswith("csk_")
        assert made["key"].startswith(made["prefix"])
        assert made["expires_at"] is made["last_used_at"] is None
        listed = as_alice.get("/auth/keys").json()
        assert listed == [{name: value for name, value in made.items() if name != "key"}]
        assert made["key"] not in str(ApiKey.objects.values().get())

    def test_it_wants_a_name(self, as_alice: Api) -> None:
        body = assert_error(as_alice.post("/auth/keys", {}), 400, "validation_error")
        assert mistakes(body) == {"name": "REQUIRED_FIELD"}

    def test_a_time_in_the_past_is_rejected(self, as_alice: Api) -> None:
        body = as_alice.post("/auth/keys", {"name": "x", "expires_at": "2020-01-01T00:00:00Z"}).json()
        assert set(mistakes(body)) == {"expires_at"}

    def test_there_is_a_maximum(self, as_alice: Api, monkeypatch) -> None:
        monkeypatch.setattr(api_keys, "MAX_KEYS", 1)
        as_alice.post("/auth/keys", {"name": "one"})
        assert_error(as_alice.post("/auth/keys", {"name": "two"}), 409, "conflict")

    def test_a_key_makes_no_keys(self, secret: str) -> None:
        assert_error(Api(secret).post("/auth/keys", {"name": "more"}), 403, "forbidden")
        assert_error(Api(secret).get("/auth/keys"), 403, "forbidden")


class TestUsing:
    def test_it_works_like_a_token(self, alice: User, secret: str) -> None:
        assert Api(secret).get("/auth/me").json()["id"] == alice.pk

    def test_it_costs_one_query(self, secret: str, django_assert_num_queries: DjangoAssertNumQueries) -> None:
        with django_assert_num_queries(1):  # notes the use too
            Api(secret).get("/auth/me")

    def test_it_brings_the_users_limits(self, alice: User, secret: str) -> None:
        UserLimits.objects.create(user=alice, executions_waiting=7)
        found = api_keys.find(secret)
        assert found is not None
        assert found.user.limits.executions_waiting == 7

    def test_its_use_is_noted(self, as_alice: Api, secret: str) -> None:
        Api(secret).get("/auth/me")
        assert as_alice.get("/auth/keys").json()[0]["last_used_at"] is not None

    def test_an_expired_one_is_refused(self, secret: str) -> None:
        ApiKey.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
        assert_error(Api(secret).get("/auth/me"), 401, "unauthorized")

    def test_one_of_an_inactive_user_is_refused(self, alice: User, secret: str) -> None:
        User.objects.filter(pk=alice.pk).update(is_active=False)
        assert_error(Api(secret).get("/auth/me"), 401, "unauthorized")

    def test_an_unknown_one_is_refused(self, secret: str) -> None:
        assert_error(Api(secret[:-1] + "~").get("/auth/me"), 401, "unauthorized")


class TestDeleting:
    def test_it_stops_working_at_once(self, as_alice: Api, secret: str) -> None:
        response = as_alice.delete(f"/auth/keys/{ApiKey.objects.get().id}")
        assert (response.status_code, response.content) == (204, b"")
        assert_error(Api(secret).get("/auth/me"), 401, "unauthorized")

    def test_another_users_is_not_found(self, as_bob: Api, secret: str) -> None:
        assert_error(as_bob.delete(f"/auth/keys/{ApiKey.objects.get().id}"), 404, "not_found")
        assert Api(secret).get("/auth/me").status_code == 200

    @pytest.mark.parametrize(
        "key_id", ["0", "999999", "9" * 30, "9" * 5000, "x", "-1", "1.5"], ids=lambda text: text[:9]
    )
    def test_a_malformed_id_is_not_found_either(self, as_alice: Api, key_id: str) -> None:
        assert_error(as_alice.delete(f"/auth/keys/{key_id}"), 404, "not_found")
