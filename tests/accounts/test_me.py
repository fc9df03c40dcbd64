from __future__ import annotations

import jwt
import pytest
from django.conf import settings
from django.core.cache import caches
from pytest_django import DjangoAssertNumQueries

from accounts import sessions
from accounts.models import User
from comfyserve.api import rate_limit_cache
from tests.factories import Api, assert_error


class TestMe:
    def test_it_answers_as_the_reference_says(self, as_alice: Api) -> None:
        body = as_alice.get("/auth/me").json()
        assert list(body) == ["id", "email", "username", "is_active", "created_at", "updated_at"]

    def test_updated_at_is_set_by_the_first_change(self, alice: User, as_alice: Api) -> None:
        assert as_alice.get("/auth/me").json()["updated_at"] is None
        alice.username = "alice2"
        alice.save(update_fields=["username"])
        assert as_alice.get("/auth/me").json()["updated_at"].endswith("Z")

    def test_it_costs_one_query(
        self, as_alice: Api, django_assert_num_queries: DjangoAssertNumQueries
    ) -> None:
        with django_assert_num_queries(1):  # session, user and limits
            as_alice.get("/auth/me")

    def test_it_costs_one_query_with_rate_limits_on(
        self, as_alice: Api, django_assert_num_queries: DjangoAssertNumQueries, settings
    ) -> None:
        settings.RATE_LIMITS = "60/m,1000/h,10000/d"
        with django_assert_num_queries(1):
            as_alice.get("/auth/me")

    def test_strangers_are_refused(self, stranger: Api) -> None:
        response = stranger.get("/auth/me")
        assert_error(response, 401, "unauthorized")
        assert response["WWW-Authenticate"] == "Bearer"

    @pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer x", "Bearer a b", "Basic YTpi", "é", ""])
    def test_nonsense_in_the_header_is_refused(self, db: None, header: str) -> None:
        assert_error(Api(Authorization=header).get("/auth/me"), 401, "unauthorized")

    @pytest.mark.parametrize("change", [{"sid": "x"}, {"sid": None}, {"sid": 7}, {"gen": "x"}, {"exp": 1}])
    def test_a_signed_token_with_invalid_claims_is_rejected(
        self, alice: User, change: dict[str, object]
    ) -> None:
        token = sessions.start(user=alice).access_token
        claims = jwt.decode(token, settings.JWT_SIGNING_KEY, algorithms=["HS256"]) | change
        forged = jwt.encode(claims, settings.JWT_SIGNING_KEY, algorithm="HS256")
        allowed = "gen" in change  # of an access token nobody asks the generation
        assert (Api(forged).get("/auth/me").status_code == 200) == allowed

    def test_a_token_without_signature_is_refused(self, alice: User) -> None:
        token = sessions.start(user=alice).access_token
        claims = jwt.decode(token, settings.JWT_SIGNING_KEY, algorithms=["HS256"])
        assert_error(Api(jwt.encode(claims, "", algorithm="none")).get("/auth/me"), 401, "unauthorized")

    def test_deactivating_ends_the_sessions_and_reactivating_revives_none(
        self, alice: User, as_alice: Api
    ) -> None:
        alice.is_active = False
        alice.save(update_fields=["is_active"])
        assert_error(as_alice.get("/auth/me"), 401, "unauthorized")
        alice.is_active = True
        alice.save(update_fields=["is_active"])
        assert_error(as_alice.get("/auth/me"), 401, "unauthorized")

    def test_an_emptied_redis_revives_no_session(self, as_alice: Api) -> None:
        as_alice.post("/auth/logout")
        caches["default"].clear()
        rate_limit_cache.client(settings.REDIS_URL).flushdb()
        assert_error(as_alice.get("/auth/me"), 401, "unauthorized")
