"""CORS: headers that browser libraries send and read from another origin."""

from __future__ import annotations

from typing import Any

from tests.factories import Api

ORIGIN = "https://front.example.com"
SENT = (
    "traceparent, sentry-trace, baggage, cache-control, x-requested-with, range, if-none-match, authorization"
)
READ = {"etag", "content-range", "location", "x-next-cursor", "retry-after", "content-disposition"}


class TestCors:
    def test_a_preflight_takes_the_headers_of_libraries(self, stranger: Api, settings: Any) -> None:
        settings.CORS_ALLOWED_ORIGINS = [ORIGIN]
        asked = {
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": SENT,
        }
        answer = stranger("options", "/files/x", headers=asked)
        allowed = {name.strip() for name in answer["Access-Control-Allow-Headers"].split(",")}
        assert {name.strip() for name in SENT.split(",")} <= allowed

    def test_answers_show_what_clients_need(self, stranger: Api, settings: Any) -> None:
        settings.CORS_ALLOWED_ORIGINS = [ORIGIN]
        answer = stranger.get("/health/", headers={"Origin": ORIGIN})
        shown = {name.strip().lower() for name in answer["Access-Control-Expose-Headers"].split(",")}
        assert shown >= READ
