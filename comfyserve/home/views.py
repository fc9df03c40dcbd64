"""`/` and `/favicon.ico`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.cache import patch_vary_headers
from drf_spectacular.utils import extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from comfyserve.api import accept
from comfyserve.api.rendering import AnyAccept

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)
ICON = (Path(__file__).parent / "favicon.ico").read_bytes()
ICON_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Door:
    """A link on the page; `url` is relative to the service unless it is external."""

    name: str
    url: str
    about: str


DOORS = (
    Door("API documentation", "/docs", "try every call in the browser"),
    Door("API reference", "/redoc", "the same, for reading"),
    Door("OpenAPI schema", "/schema", "for code generators"),
    Door("Apps", "/apps/", "workflows under a name, with a form to run each"),
    Door("Console", "/admin/", "executions, workers, models, users: for operators"),
    Door("Health", "/health/detailed", "the state of each component"),
    Door("Metrics", "/metrics/", "as JSON and for Prometheus"),
)


def doors() -> list[Door]:
    """With Flower, where its address is known."""
    flower = settings.FLOWER_URL
    elsewhere = [Door("Flower", flower, "executions as Celery tasks, queues, workers")] if flower else []
    return [*DOORS, *elsewhere]


class HomeView(APIView):
    content_negotiation_class = AnyAccept
    permission_classes = (AllowAny,)
    authentication_classes = ()

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse | Response:
        title = settings.SPECTACULAR_SETTINGS["TITLE"]
        version = settings.SPECTACULAR_SETTINGS["VERSION"]
        answer: HttpResponse | Response
        if _wants_page(request):
            values: dict[str, Any] = {"title": title, "version": version, "doors": doors()}
            answer = render(request._request, "home.html", values)
            answer["Content-Security-Policy"] = POLICY
        else:
            answer = Response(
                {"name": title, "version": version, "links": [asdict(door) for door in doors()]}
            )
        patch_vary_headers(answer, ["Accept"])
        return answer


def _wants_page(request: Request) -> bool:
    """Browsers accept HTML explicitly; scripts accept anything, or JSON."""
    return accept.preferred(request._request, "application/json", "text/html") == "text/html"


def favicon(request: HttpRequest) -> HttpResponse:  # noqa: ARG001
    return HttpResponse(
        ICON, content_type="image/x-icon", headers={"Cache-Control": f"public, max-age={ICON_SECONDS}"}
    )
