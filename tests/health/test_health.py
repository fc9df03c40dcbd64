"""The shapes of /health/…, as the reference has them."""

from __future__ import annotations

import pytest
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

import comfyserve


@pytest.mark.parametrize("path", ["/health/", "/health"])
def test_the_basic_one_has_the_documented_fields(path):
    body = Client().get(path).json()
    assert set(body) == {"status", "timestamp", "version", "uptime_seconds"}
    assert body["status"] == "healthy"
    assert body["version"] == comfyserve.__version__
    assert body["uptime_seconds"] >= 0


def test_liveness_has_the_documented_fields():
    body = Client().get("/health/liveness").json()
    assert set(body) == {"status", "timestamp"}
    assert body["status"] == "alive"


@pytest.mark.parametrize("path", ["/health/", "/health/liveness"])
def test_these_two_ask_no_database(path):
    """pytest-django refuses every query of a test that did not ask for a database."""
    assert Client().get(path, headers={"Authorization": "Bearer cs_unknown"}).status_code == 200


@pytest.mark.parametrize("path", ["/health/", "/health/liveness", "/health/readiness", "/health/detailed"])
def test_only_get_is_allowed(path):
    answer = Client().post(path)
    assert answer.status_code == 405
    assert answer.json()["error"] == "method_not_allowed"


def test_detailed_has_the_documented_fields(own):
    body = own.get("/health/detailed").json()
    assert set(body) == {"status", "timestamp", "version", "uptime_seconds", "services", "system"}
    assert [service["name"] for service in body["services"][:3]] == ["database", "redis", "comfyui"]
    for service in body["services"]:
        assert set(service) == {"name", "status", "response_time_ms", "error"}
    assert set(body["system"]) == {
        "cpu_usage_percent", "memory_usage_percent", "gpu_usage_percent", "disk_usage_percent",
    }  # fmt: skip


def test_probes_are_not_counted_for_rate_limits(settings):
    settings.RATE_LIMITS = "1/m"
    assert [Client().get("/health/")["X-RateLimit-Remaining"] for _ in range(3)] == ["1"] * 3


def test_errors_of_services_reveal_no_passwords(own):
    own.postgres.process.kill()
    own.says("/health/readiness", 503)
    text = own.says("/health/detailed", 503).text
    assert own.postgres.password not in text
    assert "127.0.0.1" not in text


def test_latency_is_reported_by_route_and_survives_a_restart(own):
    for _ in range(3):
        own.get("/workflows/00000000-0000-0000-0000-000000000000")
    own.stack.web.stop(seconds=60)  # what is gathered in memory is written at the end
    own.stack.start_web()
    own.says("/metrics/", 200)
    text = own.get("/metrics/", headers={"Accept": "text/plain"}).text
    counts = {
        sample.labels["route"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "comfyserve_http_request_seconds_count" and sample.labels["code"] == "401"
    }
    assert counts["/workflows/<str:execution_id>"] >= 3
