from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import redis
from django.conf import settings as django_settings
from django.db import connection
from django.test import AsyncClient

from accounts import sessions
from accounts.models import User, UserLimits
from comfyserve import outages
from comfyserve.api import rate_limit_cache, rate_limits
from tests.factories import Api, assert_error, make_user

NAMES = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


def rate_limits_of(response) -> tuple[int, int, int]:
    limit, remaining, reset = (int(response[name]) for name in NAMES)
    return limit, remaining, reset - int(time.time())


@pytest.fixture(autouse=True)
def _fresh(settings):
    settings.RATE_LIMITS = "60/m,1000/h,10000/d"
    rate_limit_cache.client(django_settings.REDIS_URL).flushdb()


@pytest.fixture(autouse=True)
def _patient(monkeypatch) -> Iterator[None]:
    """On a busy machine Redis may take longer than a request would wait, and nothing would be counted."""
    with redis.Redis.from_url(django_settings.REDIS_URL, socket_timeout=30) as client:
        script = client.register_script(rate_limit_cache.COUNT)
        monkeypatch.setattr(rate_limit_cache, "_script", lambda _: script)
        yield


@pytest.fixture(autouse=True)
def now(monkeypatch) -> SimpleNamespace:
    """The clock of the limits, which stands still: no window ends during a test. Others keep theirs."""
    clock = SimpleNamespace(seconds=time.time())
    monkeypatch.setattr("django_ratelimit.core.time", SimpleNamespace(time=lambda: clock.seconds))
    return clock


class TestHeaders:
    def test_they_describe_the_hour(self, as_alice: Api) -> None:
        first, second = as_alice.get("/auth/me"), as_alice.get("/auth/me")
        assert rate_limits_of(first)[:2] == (1000, 999)
        assert rate_limits_of(second)[:2] == (1000, 998)
        assert 0 <= rate_limits_of(second)[2] <= 3600

    @pytest.mark.parametrize("path", ["/nowhere", "/auth/login", "/docs", "/redoc", "/admin/login/"])
    def test_they_are_on_all_responses(self, stranger: Api, path: str) -> None:
        assert rate_limits_of(stranger.get(path))[:2] == (1000, 999)

    def test_they_are_on_a_refused_body(self, stranger: Api, settings) -> None:
        settings.MAX_BODY_BYTES = 10
        assert rate_limits_of(stranger.post("/auth/login", {"email": "x" * 20}))[:2] == (1000, 999)

    @pytest.mark.parametrize("path", ["/health/", "/health", "/health/readiness", "/metrics", "/static/x.js"])
    def test_probes_and_metrics_are_not_counted(self, stranger: Api, path: str) -> None:
        for _ in range(3):
            assert rate_limits_of(stranger.get(path))[:2] == (1000, 1000)
        assert rate_limit_cache.client(django_settings.REDIS_URL).dbsize() == 0

    def test_a_path_that_resembles_a_probe_is_counted(self, stranger: Api) -> None:
        assert rate_limits_of(stranger.get("/healthy"))[:2] == (1000, 999)

    def test_a_preflight_is_not_counted(self, stranger: Api, settings) -> None:
        settings.CORS_ALLOWED_ORIGINS = ["https://front.example.com"]
        headers = {"Origin": "https://front.example.com", "Access-Control-Request-Method": "GET"}
        response = stranger("options", "/auth/me", headers=headers)
        assert response["Access-Control-Allow-Origin"] == "https://front.example.com"
        assert rate_limits_of(response)[:2] == (1000, 1000)

    def test_they_are_on_the_asgi_half(self, db: None) -> None:
        async def ask():
            client = AsyncClient(raise_request_exception=False)
            return await client.get("/nowhere", headers={"X-Request-ID": "abc"})

        response = asyncio.run(ask())
        assert_error(response, 404, "not_found")
        assert rate_limits_of(response)[:2] == (1000, 999)


class TestRefusals:
    def test_the_hour_is_refused_in_the_references_words(self, as_alice: Api, settings) -> None:
        settings.RATE_LIMITS = "60/m,2/h"
        for _ in range(2):
            as_alice.get("/auth/me")
        response = as_alice.get("/auth/me")
        body = assert_error(response, 429, "rate_limit_exceeded")
        assert body["message"] == "Too many requests. Rate limit: 2 requests per hour."
        assert rate_limits_of(response)[:2] == (2, 0)
        # The same moment, looked at a little later.
        assert 0 <= int(response["Retry-After"]) - rate_limits_of(response)[2] <= 20

    @pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99])
    @pytest.mark.parametrize("rate", ["1/s", "1/m", "1/h"])
    def test_a_retry_after_the_seconds_that_are_named_is_let_in(
        self, as_alice: Api, settings, now: SimpleNamespace, rate: str, fraction: float
    ) -> None:
        settings.RATE_LIMITS = rate
        now.seconds = int(time.time()) + fraction
        assert [as_alice.get("/auth/me").status_code for _ in range(2)] == [200, 429]
        now.seconds += int(as_alice.get("/auth/me")["Retry-After"])
        assert as_alice.get("/auth/me").status_code == 200

    def test_a_refusal_describes_the_window_that_was_exceeded(self, as_alice: Api, settings) -> None:
        settings.RATE_LIMITS = "2/d,1000/h"
        for _ in range(2):
            assert rate_limits_of(as_alice.get("/auth/me"))[0] == 1000
        response = as_alice.get("/auth/me")
        assert rate_limits_of(response)[:2] == (2, 0)
        assert response.json()["message"] == "Too many requests. Rate limit: 2 requests per day."

    def test_a_request_over_the_short_limit_is_not_counted_in_the_long_one(
        self, as_alice: Api, settings
    ) -> None:
        settings.RATE_LIMITS = "1/h,1000/d"
        statuses = [as_alice.get("/auth/me").status_code for _ in range(5)]
        assert statuses == [200, 429, 429, 429, 429]
        settings.RATE_LIMITS = "1000/d"
        assert rate_limits_of(as_alice.get("/auth/me"))[:2] == (1000, 998)

    def test_browsers_see_it(self, stranger: Api, settings) -> None:
        settings.RATE_LIMITS = "1/h"
        settings.CORS_ALLOWED_ORIGINS = ["https://front.example.com"]
        stranger.get("/nowhere")
        response = stranger.get("/nowhere", headers={"Origin": "https://front.example.com"})
        assert response.status_code == 429
        assert response["Access-Control-Allow-Origin"] == "https://front.example.com"
        assert "X-RateLimit-Reset" in response["Access-Control-Expose-Headers"]

    @pytest.mark.django_db(transaction=True)
    def test_of_1000_concurrent_requests_exactly_60_are_let_through(self, settings) -> None:
        settings.RATE_LIMITS = "60/h"
        token = sessions.start(user=make_user("alice")).access_token

        def ask(_: int) -> int:
            try:
                return Api(token).get("/auth/me").status_code
            finally:
                connection.close()

        with ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(ask, range(1000)))
        assert (statuses.count(200), statuses.count(429)) == (60, 940)


class TestWhoIsCounted:
    def test_each_user_for_itself_at_whatever_address(
        self, as_alice: Api, as_bob: Api, stranger: Api
    ) -> None:
        as_alice.get("/auth/me")
        assert rate_limits_of(as_alice.get("/auth/me", REMOTE_ADDR="10.0.0.1"))[1] == 998
        assert rate_limits_of(as_bob.get("/auth/me"))[1] == 999
        assert rate_limits_of(stranger.get("/nowhere"))[1] == 999

    def test_strangers_by_address(self, stranger: Api) -> None:
        stranger.get("/nowhere", REMOTE_ADDR="10.0.0.1")
        assert rate_limits_of(stranger.get("/nowhere", REMOTE_ADDR="10.0.0.1"))[1] == 998
        assert rate_limits_of(stranger.get("/nowhere", REMOTE_ADDR="10.0.0.2"))[1] == 999

    def test_a_bad_token_counts_for_the_address(self, stranger: Api) -> None:
        Api("nonsense").get("/auth/me")
        assert rate_limits_of(stranger.get("/nowhere"))[1] == 998

    def test_a_forged_header_changes_nothing(self, stranger: Api) -> None:
        stranger.get("/nowhere")
        assert rate_limits_of(stranger.get("/nowhere", headers={"X-Forwarded-For": "1.2.3.4"}))[1] == 998

    def test_behind_a_proxy_only_the_trusted_hop_is_believed(self, stranger: Api, settings) -> None:
        settings.TRUSTED_PROXY_HOPS = 1
        for forged in ("9.9.9.9", "8.8.8.8"):
            response = stranger.get("/nowhere", headers={"X-Forwarded-For": f"{forged}, 1.2.3.4"})
        assert rate_limits_of(response)[1] == 998

    @pytest.mark.parametrize("own, limit", [("5/h", 5), ("600/m,20000/h", 20000)])
    def test_the_operator_may_set_others_for_a_user(
        self, alice: User, as_alice: Api, own: str, limit: int
    ) -> None:
        UserLimits.objects.create(user=alice, rate_limits=own)
        assert rate_limits_of(as_alice.get("/auth/me"))[:2] == (limit, limit - 1)

    def test_the_operator_may_disable_them(self, alice: User, as_alice: Api, settings) -> None:
        settings.RATE_LIMITS = "1/h"
        UserLimits.objects.create(user=alice, rate_limits="off")
        assert [as_alice.get("/auth/me").status_code for _ in range(3)] == [200] * 3


class TestRedisAway:
    @pytest.fixture(autouse=True)
    def _away(self, monkeypatch):
        gone = rate_limit_cache.client("redis://127.0.0.1:1/0").register_script(rate_limit_cache.COUNT)
        monkeypatch.setattr(rate_limit_cache, "_script", lambda _: gone)

    def test_requests_are_let_through_logged_and_counted(self, as_alice: Api, settings, caplog) -> None:
        settings.RATE_LIMITS = "1/h"
        before = rate_limits.skipped._value.get()
        responses = [as_alice.get("/auth/me") for _ in range(3)]
        assert [response.status_code for response in responses] == [200] * 3
        assert rate_limits_of(responses[0])[:2] == (1, 1)
        assert rate_limits.skipped._value.get() - before == 3
        assert caplog.text.count("Redis is unavailable") == 1  # then it is not called for a while

    def test_it_is_asked_again_after_a_while(self, as_alice: Api, caplog) -> None:
        as_alice.get("/auth/me")
        outages.redis.until = time.monotonic()
        as_alice.get("/auth/me")
        assert caplog.text.count("Redis is unavailable") == 2
