"""API latency by route, and a log line for each request.

Every process collects its own and adds it to PostgreSQL every few seconds (`workflows.metrics.store`), not to
files on its host (prometheus-client's multiprocess mode): so one `/metrics/` response covers all processes on
all hosts, whichever of them a load balancer picks, and a restart loses nothing.
"""

from __future__ import annotations

import logging
import time

from django.http import HttpRequest, HttpResponse
from prometheus_client import REGISTRY

from comfyserve.api.middleware import Middleware, is_counted
from workflows.metrics import store

logger = logging.getLogger("comfyserve.requests")

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
NO_ROUTE = "none"


class MeasureMiddleware(Middleware):
    """Outermost except for the request id: measures all our work, including rejections."""

    def before(self, request: HttpRequest) -> None:
        request.began_at = time.perf_counter()  # type: ignore[attr-defined]

    def after(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        seconds = time.perf_counter() - request.began_at  # type: ignore[attr-defined]
        if not _waits(request):
            store.observe(
                "http_request_seconds", _method(request), route_of(request), str(response.status_code),
                value=seconds,
            )  # fmt: skip
        _log(request, response, seconds)
        return response


def _waits(request: HttpRequest) -> bool:
    """Not measured: it lasts as long as the client wants."""
    return "wait" in request.headers.get("Prefer", "")


def _method(request: HttpRequest) -> str:
    return request.method if request.method in METHODS else "other"


def route_of(request: HttpRequest) -> str:
    """The route pattern as written in the code: with names in place of ids."""
    match = request.resolver_match
    if match is None:
        return NO_ROUTE
    return "/admin/" if match.route.startswith("admin/") else f"/{match.route}"


def _log(request: HttpRequest, response: HttpResponse, seconds: float) -> None:
    """Without the query: it may carry a token."""
    level = logging.INFO if is_counted(request.path_info) else logging.DEBUG
    if not logger.isEnabledFor(level):
        return
    match = request.resolver_match
    logger.log(
        level,
        "%s %s %d in %.0f ms", request.method, request.path, response.status_code, seconds * 1000,
        extra={
            "method": request.method,
            "path": request.path,
            "status": response.status_code,
            "duration_ms": round(seconds * 1000, 1),
            "execution_id": match.kwargs.get("execution_id") if match else None,
        },
    )  # fmt: skip


_seen = 0.0


def gather_process_counters() -> None:
    """Counters that prometheus-client keeps in this process are added to the fleet's metrics."""
    global _seen
    now = REGISTRY.get_sample_value("comfyserve_rate_limit_skipped_total") or 0.0
    if now > _seen:
        store.count("rate_limit_skipped", by=int(now - _seen))
        _seen = now
