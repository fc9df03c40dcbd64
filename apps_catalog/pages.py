"""The HTML page of apps: the same URLs as the API's, for requests that accept HTML."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render

from comfyserve.api import accept

# Everything from this server, except images: S3 serves those from another origin.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob: https: http:; media-src 'self' https: http:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


def page_or(view: Any) -> Any:
    """The page for browsers, which log in there; the API's view for all other requests."""

    def chosen(request: HttpRequest, **arguments: str) -> HttpResponseBase:
        if request.method in ("GET", "HEAD") and _asks_for_html(request):
            return _page(request)
        answer: HttpResponseBase = view(request, **arguments)
        return answer

    # As REST framework marks its own views, for the schema generator.
    chosen.cls, chosen.initkwargs, chosen.csrf_exempt = view.cls, view.initkwargs, True  # type: ignore[attr-defined]
    return chosen


def _asks_for_html(request: HttpRequest) -> bool:
    return accept.preferred(request, "application/json", "text/html") == "text/html"


def _page(request: HttpRequest) -> HttpResponse:
    response = render(request, "apps_catalog/page.html")
    response["Content-Security-Policy"] = POLICY
    response["Vary"] = "Accept"
    return response
