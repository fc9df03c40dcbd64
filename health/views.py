"""/health/, /metrics/ and /workers/."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from rest_framework.permissions import AllowAny, IsAdminUser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

import comfyserve
from accounts.authentication import bearer_token
from comfyserve.api import accept
from comfyserve.api.errors import Unauthorized
from comfyserve.api.rendering import AnyAccept
from comfyserve.api.schema import describe
from workflows.fleet import overview, registry
from workflows.models import Worker

from . import exposition, figures, readiness, system
from . import serializers as shapes
from .detailed import detailed

JSON = "application/json"
KINDS = ("text/plain", "application/openmetrics-text")  # accepted by Prometheus


class ProbeView(APIView):
    """Public, without authentication."""

    authentication_classes = ()
    permission_classes = (AllowAny,)


class Health(ProbeView):
    @describe(None, shapes.HealthSerializer)
    def get(self, request: Request) -> Response:  # noqa: ARG002
        """Basic Health Check: this process responds; nothing else is checked."""
        return Response(_about("healthy"))


class DetailedHealth(ProbeView):
    @describe(None, {200: shapes.DetailedSerializer, 503: shapes.DetailedSerializer})
    def get(self, request: Request) -> Response:  # noqa: ARG002
        """Detailed Health Check: each dependency, within two seconds whatever hangs. 503 if unhealthy."""
        report = detailed.get()
        services = [asdict(service) for service in report.services]
        body = {**_about(report.status), "services": services, "system": report.system}
        return Response(body, status=503 if report.status == "unhealthy" else 200)


class Readiness(ProbeView):
    @describe(None, {200: shapes.ReadySerializer, 503: shapes.NotReadySerializer})
    def get(self, request: Request) -> Response:  # noqa: ARG002
        """Readiness Probe: whether this process should receive requests."""
        reason = readiness.why_not()
        if reason is None:
            return Response({"status": "ready"})
        return Response({"status": "not ready", "reason": reason}, status=503)


class Liveness(ProbeView):
    @describe(None, shapes.LivenessSerializer)
    def get(self, request: Request) -> Response:  # noqa: ARG002
        """Liveness Probe: this process is alive."""
        return Response({"status": "alive", "timestamp": timezone.now()})


def _about(status: str) -> dict[str, Any]:
    return {
        "status": status,
        "timestamp": timezone.now(),
        "version": comfyserve.__version__,
        "uptime_seconds": system.uptime_seconds(),
    }


class Metrics(ProbeView):
    content_negotiation_class = AnyAccept

    @describe(
        None, {(200, JSON): shapes.MetricsSerializer} | {(200, kind): OpenApiTypes.STR for kind in KINDS}
    )
    def get(self, request: Request) -> Response | HttpResponse:
        """System Metrics: as JSON, or in the Prometheus format for `Accept: text/plain` or OpenMetrics.

        With METRICS_TOKEN set it requires that token as bearer token.
        """
        _check_token(request)
        found = figures.now()
        if _wants_text(request):
            body, content_type = exposition.text(found, accept=request.headers.get("Accept", ""))
            return HttpResponse(body, content_type=content_type)
        return Response(figures.as_documented(found))


def _check_token(request: Request) -> None:
    given = bearer_token(request._request) or ""
    if settings.METRICS_TOKEN and not secrets.compare_digest(given.encode(), settings.METRICS_TOKEN.encode()):
        raise Unauthorized(
            "The metrics require METRICS_TOKEN as a bearer token", headers={"WWW-Authenticate": "Bearer"}
        )


def _wants_text(request: Request) -> bool:
    preferred = accept.preferred(request._request, JSON, *KINDS)
    return preferred is not None and preferred != JSON


class Workers(APIView):
    permission_classes = (IsAdminUser,)

    @describe(None, shapes.WorkerSerializer(many=True), errors=(403,))
    def get(self, request: Request) -> Response:  # noqa: ARG002
        """GPU Workers: for staff. The hardware, state and work of each, silent ones included."""
        loaded = overview.models_loaded()
        return Response([_worker(row, loaded.get(row.name)) for row in overview.rows()])


class MayOperateWorkers(IsAdminUser):
    """Staff who may change workers: the group Operators, and superusers."""

    message = "Only operators may do this"

    def has_permission(self, request: Request, view: APIView) -> bool:
        return super().has_permission(request, view) and request.user.has_perm("workflows.change_worker")


class _DesiredStateView(APIView):
    permission_classes = (MayOperateWorkers,)

    def _ask(self, name: str, state: Worker.DesiredState) -> Response:
        registry.set_desired_state(name=name, state=state)
        return Response(_worker(overview.row_of(name), overview.models_loaded().get(name)))


class PauseWorker(_DesiredStateView):
    @describe(None, shapes.WorkerSerializer, errors=(403,))
    def post(self, request: Request, worker_name: str) -> Response:  # noqa: ARG002
        """Pause Worker: no new claims, the running execution continues, the staged one returns to the queue.

        This lasts until it is resumed, also across restarts of the worker. `status` follows within seconds.
        """
        return self._ask(worker_name, Worker.DesiredState.PAUSE)


class DrainWorker(_DesiredStateView):
    @describe(None, shapes.WorkerSerializer, errors=(403,))
    def post(self, request: Request, worker_name: str) -> Response:  # noqa: ARG002
        """Drain Worker: as pause; the status is `drained` once it holds no executions and can be stopped."""
        return self._ask(worker_name, Worker.DesiredState.DRAIN)


class ResumeWorker(_DesiredStateView):
    @describe(None, shapes.WorkerSerializer, errors=(403,))
    def post(self, request: Request, worker_name: str) -> Response:  # noqa: ARG002
        """Resume Worker: it claims executions again."""
        return self._ask(worker_name, Worker.DesiredState.WORK)


def _worker(row: overview.Row, models_loaded: list[str] | None) -> dict[str, Any]:
    worker = row.worker
    running = {"execution_id": worker.running, "since": worker.running_since} if worker.running else None
    return {
        "name": worker.name,
        "status": row.status,
        "wish": worker.desired_state,
        "host": worker.host,
        "pid": worker.pid,
        "url": overview.without_password(worker.url),
        "comfyui_version": worker.comfyui_version,
        "devices": worker.devices,
        "gpus": worker.gpus,
        "ram_total": worker.ram_total,
        "ram_free": worker.ram_free,
        "models_loaded": models_loaded,
        "running": running,
        "staged": worker.staged,
        "started_at": worker.started_at,
        "heartbeat_at": worker.heartbeat_at,
        "silent_seconds": round(row.silent_seconds, 1),
    }
