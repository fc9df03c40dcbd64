"""Middleware for every request and response, on both the WSGI and the ASGI half."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import Resolver404, ResolverMatch, resolve

from comfyserve import logs
from comfyserve.db import connections

from . import errors, rate_limits, request_ids
from .errors import Detail, ValidationFailed
from .gate.application import REFUSAL
from .gate.routes import route_of


class Middleware:
    """Base for both halves of the server: `before` the view, `after` on its response."""

    sync_capable = async_capable = True
    blocks = False  # `before` queries the database or Redis: on the ASGI half it runs in a thread

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if self._is_async:
            return self._call_async(request)
        response = self.before(request) or self.get_response(request)
        return self.after(request, response)

    async def _call_async(self, request: HttpRequest) -> HttpResponse:
        early = await sync_to_async(self._before_in_thread)(request) if self.blocks else self.before(request)
        return self.after(request, early or await self.get_response(request))

    def _before_in_thread(self, request: HttpRequest) -> HttpResponse | None:
        """Such a request may last for hours: its database connection returns to the pool immediately."""
        try:
            return self.before(request)
        finally:
            connections.release()

    def before(self, request: HttpRequest) -> HttpResponse | None:
        """A response returned here is final; the view is not called."""

    def after(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:  # noqa: ARG002
        return response


class HostMiddleware(Middleware):
    """Enforces ALLOWED_HOSTS for every request: Django itself checks it only where a URL is built."""

    # Load balancers and Prometheus request these by address; they disclose nothing about users.
    FOR_ANY_NAME = ("/health", "/health/liveness", "/health/readiness", "/metrics")

    def before(self, request: HttpRequest) -> None:
        if request.path_info.rstrip("/") not in self.FOR_ANY_NAME:
            request.get_host()  # raises DisallowedHost, which is answered with 400


class ErrorsMiddleware(Middleware):
    """Renders exceptions of views outside REST framework (streams, the admin) in the error format as well."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        known = errors.as_api_error(exception)
        return errors.response(request, known) if known else None


CONSOLE, CONSOLE_LOGIN = "/admin", "/admin/login"
UNCOUNTED = ("/health/", "/metrics/", settings.STATIC_URL, f"{CONSOLE}/")


def is_counted(path: str) -> bool:
    """Probes, metrics and static files are not counted, and so need no Redis. Nor is the console, whose pages
    refresh themselves, except its login."""
    path = f"{path}/"
    return not path.startswith(UNCOUNTED) or path.startswith(f"{CONSOLE_LOGIN}/")


def is_console(path: str) -> bool:
    return f"{path}/".startswith(f"{CONSOLE}/")


class AdmissionMiddleware(Middleware):
    """Rejects what no view should see, and finds the view."""

    def before(self, request: HttpRequest) -> HttpResponse | None:
        rejection = _body_rejection(request) or _address_rejection(request)
        if rejection is None:
            _find_view(request)
        return rejection


def _body_rejection(request: HttpRequest) -> HttpResponse | None:
    """The gate's rejection; that of bodies that are too large or compressed, before they are read."""
    refusal = getattr(request, "scope", {}).get(REFUSAL)
    if refusal is not None:
        return errors.response(request, refusal)
    length = request.META.get("CONTENT_LENGTH") or "0"
    limit = route_of(request.method or "", request.path_info).body_bytes
    if length.isdigit() and int(length[:20]) > limit:
        message = f"The body has more than {limit} bytes"
        return errors.json_error(413, message, headers={"Connection": "close"})
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        return errors.json_error(415, "Compressed bodies are not accepted; send it without Content-Encoding")
    return None


def _address_rejection(request: HttpRequest) -> HttpResponse | None:
    """A NUL character in the path is 404; in a query parameter it is a validation error."""
    if "\x00" in request.path_info:
        return errors.handler404(request, None)
    query = request.META.get("QUERY_STRING", "")
    if "%00" not in query and "\x00" not in query:
        return None
    names = [name for name, value in parse_qsl(query, keep_blank_values=True) if "\x00" in name + value]
    details = [Detail("INVALID_VALUE", "NUL characters are not allowed", name) for name in names]
    return errors.response(request, ValidationFailed(details)) if details else None


def _find_view(request: HttpRequest) -> None:
    """Every path answers with and without a trailing slash, also POST, without a redirect."""
    path = request.path_info
    # The match is kept: `gate.threads.ThreadHandler` does not resolve the path again.
    request.resolver_match = _match(path)
    if request.resolver_match is None and path != "/":
        other = path[:-1] if path.endswith("/") else f"{path}/"
        if match := _match(other):
            request.path_info, request.resolver_match = other, match


def _match(path: str) -> ResolverMatch | None:
    try:
        return resolve(path)
    except Resolver404:
        return None


POLICY = "default-src 'none'; frame-ancestors 'none'"
# Only our own scripts; unfold's Alpine evaluates the attributes in its templates, which needs unsafe-eval.
CONSOLE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)


class EnvelopeMiddleware(Middleware):
    """Outermost: the request's id, and the headers of every response."""

    def before(self, request: HttpRequest) -> None:
        logs.clear()
        request.request_id = request_ids.begin(request.headers.get("X-Request-ID"))  # type: ignore[attr-defined]

    def after(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        for name, value in {**_rate_headers(request), **_security_headers(request, response)}.items():
            response.setdefault(name, value)  # a 429 has its own, and the docs set their own policy
        response["X-Request-ID"] = request.request_id  # type: ignore[attr-defined]
        if not response.streaming:
            response.setdefault("Content-Length", str(len(response.content)))
        return response


def _rate_headers(request: HttpRequest) -> dict[str, str]:
    """The full limit if the request was not counted."""
    usage = getattr(request, "rate_usage", None) or rate_limits.unused(rate_limits.rates_for(None))
    return usage.headers() if usage else {}


def _security_headers(request: HttpRequest, response: HttpResponse) -> dict[str, str]:
    """For browsers. JSON allows nothing, and belongs to one user; files and pages set their own caching."""
    is_json = response.get("Content-Type", "").startswith("application/json")
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"} if is_json else {}
    return headers | ({"Content-Security-Policy": CONSOLE_POLICY} if is_console(request.path_info) else {})
