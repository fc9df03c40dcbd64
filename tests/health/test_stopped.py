"""Each dependency stopped in turn, as real processes: what every health endpoint says."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from tests.health.conftest import Own, conditions

QUEUES = {"celery:gpu", "celery:models", "celery:webhooks", "celery:default"}


@dataclass(frozen=True)
class Says:
    """What each endpoint says while one thing is stopped."""

    stopped: str
    overall: str
    detailed: int
    readiness: int
    metrics: int
    unwell: frozenset[str]  # services that are not healthy


TABLE = [
    Says("nothing", "healthy", 200, 200, 200, frozenset()),
    Says("redis", "degraded", 200, 200, 200, frozenset({"redis", *QUEUES})),
    Says("comfyui", "degraded", 200, 200, 200, frozenset({"comfyui", "comfyui:gpu-1"})),
    Says(
        "workers",
        "degraded",
        200,
        200,
        200,
        frozenset({"celery:models", "celery:webhooks", "celery:default"}),
    ),
    Says("gpu worker", "degraded", 200, 200, 200, frozenset({"comfyui", "comfyui:gpu-1", "celery:gpu"})),
    Says("database", "unhealthy", 503, 503, 503, frozenset({"database", "comfyui"})),
]


@pytest.fixture
def everything(own: Own, comfyui) -> Own:
    """All that ComfyServe has, running and well."""
    own.stack.start_worker(
        "gpu", comfyui_url=comfyui.url, env={"COMFYUI_NAME": "gpu-1"}, keep=True, wait=False
    )
    own.stack.start_worker("rest", queues="default,models,webhooks", keep=True, wait=False)
    for name in ("comfyui:gpu-1", *QUEUES):
        own.service(name, "healthy", seconds=60)
    return own


@pytest.mark.parametrize("says", TABLE, ids=lambda says: says.stopped)
def test_what_each_endpoint_says(everything, comfyui, says):
    own = everything
    match says.stopped:
        case "redis":
            own.valkey.process.kill()
        case "comfyui":
            comfyui.kill()
        case "workers":
            own.stack.workers["rest"].kill()
        case "gpu worker":
            own.stack.workers["gpu"].kill()
        case "database":
            own.postgres.process.kill()
    body = own.service(min(says.unwell), "unhealthy") if says.unwell else own.detailed()
    for name in says.unwell:
        body = own.service(name, "unhealthy")
    assert {name for name, condition in conditions(body).items() if condition != "healthy"} == says.unwell
    assert body["status"] == says.overall
    assert own.says("/health/detailed", says.detailed).json()["status"] == says.overall
    assert own.says("/health/readiness", says.readiness).status_code == says.readiness
    assert own.says("/metrics/", says.metrics).status_code == says.metrics
    assert own.get("/health/").json()["status"] == "healthy"
    assert own.get("/health/liveness").json()["status"] == "alive"


def test_readiness_says_that_the_database_is_away(own):
    own.postgres.process.kill()
    answer = own.says("/health/readiness", 503)
    assert answer.json() == {"status": "not ready", "reason": "Database not available"}


def test_readiness_returns_with_the_database(own):
    own.postgres.process.kill()
    own.says("/health/readiness", 503)
    own.postgres.start()
    own.postgres.wait()
    assert own.says("/health/readiness", 200).json() == {"status": "ready"}


def test_no_answer_takes_two_seconds_while_servers_hang(own):
    """Frozen, not stopped: connections are taken, and nothing is ever said."""
    import signal

    frozen = (own.postgres.process, own.valkey.process)
    for process in frozen:
        process.signal(signal.SIGSTOP)
    try:
        own.service("database", "unhealthy")
        times = []
        for path in ("/health/detailed", "/health/readiness", "/metrics/") * 2:
            began = time.monotonic()
            assert own.get(path).status_code == 503
            times.append(time.monotonic() - began)
        assert max(times) < 2.2, times  # two seconds, and what a busy machine needs to say so
    finally:
        for process in frozen:
            process.signal(signal.SIGCONT)
    assert own.service("database", "healthy")["services"][1]["status"] in ("healthy", "unhealthy")


def test_liveness_answers_while_all_other_threads_wait_for_the_database(own):
    import signal
    from concurrent.futures import ThreadPoolExecutor

    own.postgres.process.signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(24) as clients:
            stuck = [
                clients.submit(own.get, "/auth/me", headers={"Authorization": "Bearer x"}) for _ in range(24)
            ]
            began = time.monotonic()
            assert own.get("/health/liveness").status_code == 200
            took = time.monotonic() - began
            own.postgres.process.signal(signal.SIGCONT)
            for request in stuck:
                request.result()
    finally:
        own.postgres.process.signal(signal.SIGCONT)
    assert took < 1.0
